/* A program's process between fork and exec. */
#ifndef DUMM_CHILD_H
#define DUMM_CHILD_H

#include "text.h"

/* A program to run. There is room for one more argument before argv[0]. */
struct request {
	u8 flags;
	u16 rows, cols;
	char *user, *cwd, **argv, **env;
};

/* Take the payload of RUN apart, into memory that the next call uses again: 0, -EINVAL or -E2BIG. */
long child_parse(u8 *payload, u32 n, struct request *r);

/* Become the program. A failure is written to `tell`: an errno, and its subject. */
void child_exec(int tell, const struct request *r, int *fds) __attribute__((noreturn));

/* Unblock all signals, as programs expect. */
void child_reset_signals(void);

#endif
