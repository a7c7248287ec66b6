/* The system calls that the jail permits. */
#ifndef DUMM_SECCOMP_H
#define DUMM_SECCOMP_H

#include <stdbool.h>

/* From here on, this process and its children can make only the system calls that UML needs; with
 * `passing`, these include passing descriptors in messages. */
void filter_system_calls(bool passing);

#endif
