/* The last steps of the process that becomes the program. */
#ifndef DUMM_PROGRAM_H
#define DUMM_PROGRAM_H

#include "order.h"

/* Drop everything that the program must not have, and execute it once `go` says so. */
void run_program(const struct order *o, int userns, int output, int go) __attribute__((noreturn));

#endif
