/* What the program becomes on its way into the jail. */
#ifndef DUMM_PROGRAM_H
#define DUMM_PROGRAM_H

#include "order.h"

/* Give up all that the program is not to have, and become it when `go` says so. */
void run_program(const struct order *o, int userns, int output, int go) __attribute__((noreturn));

#endif
