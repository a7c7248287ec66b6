/* Which system calls the jail leaves its program. */
#ifndef DUMM_SECCOMP_H
#define DUMM_SECCOMP_H

#include <stdbool.h>

/* From here on, this process and its children may call what UML needs of the host only; `passing`:
 * descriptors in messages too. */
void filter_system_calls(bool passing);

#endif
