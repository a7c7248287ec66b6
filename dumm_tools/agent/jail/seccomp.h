/* The system calls that the jail permits. */
#ifndef DUMM_SECCOMP_H
#define DUMM_SECCOMP_H

#include "order.h"

/* From here on, this process and its children can make only the system calls that a program of this role
 * needs; with `passing`, a kernel's include passing descriptors in messages. */
void filter_system_calls(enum role role, bool passing);

#endif
