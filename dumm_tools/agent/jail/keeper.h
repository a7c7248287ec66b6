/* Pid 1 of the jail. */
#ifndef DUMM_KEEPER_H
#define DUMM_KEEPER_H

#include "order.h"

/* Build the jail, start the program in it, and hold the locks until it has ended. The program's pidfd
 * is sent through `report`; the program waits for a byte from `go`. */
void run_keeper(struct order *o, int userns, int report, int go) __attribute__((noreturn));

#endif
