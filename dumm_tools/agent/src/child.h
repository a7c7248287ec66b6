/* A program's process until exec. */
#ifndef DUMM_CHILD_H
#define DUMM_CHILD_H

#include "request.h"

/* Start a process that becomes the program: its pid, or a negative errno. A later failure is written to
 * `tell`: an errno, and its subject. The request belongs to the process; it is left by request_left. */
long child_start(struct request *r, int tell, const int fds[3]);

/* Unblock all signals, as programs expect. */
void child_reset_signals(void);

#endif
