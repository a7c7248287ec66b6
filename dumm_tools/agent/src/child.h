/* A program's process between fork and exec. */
#ifndef DUMM_CHILD_H
#define DUMM_CHILD_H

#include "text.h"

/* Become the program. A failure is written to `tell`: an errno, and its subject. */
void child_exec(int tell, u8 flags, char *user, char *cwd, char **argv, char **env, int *fds)
	__attribute__((noreturn));

/* Unblock all signals, as programs expect. */
void child_reset_signals(void);

#endif
