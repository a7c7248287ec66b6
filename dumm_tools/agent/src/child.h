/* What a program's process does between fork and exec. */
#ifndef DUMM_CHILD_H
#define DUMM_CHILD_H

#include "text.h"

/* Become the program. What fails is written to `tell`: an errno, and what it was. */
void child_exec(int tell, u8 flags, char *user, char *cwd, char **argv, char **env, int *fds)
	__attribute__((noreturn));

/* Block no signal, as a program expects it. */
void child_reset_signals(void);

#endif
