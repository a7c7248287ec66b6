/* Requests to run a program, each in memory of its own: the program's process uses it until exec. */
#ifndef DUMM_REQUEST_H
#define DUMM_REQUEST_H

#include "text.h"

#define ENV_MAX 4096
#define GROUPS_MAX 256

/* There is room for one more argument before argv[0]. */
struct request {
	struct request *next;
	size_t size;		/* of this memory */
	int pid;		/* the process that uses it, or 0 */
	u8 flags;
	u16 rows, cols;
	char *user, *cwd, **argv, **env;
	int tell, fds[3];	/* the process's: for its report of a failure; stdin, stdout, stderr */
	struct room room;	/* for what the process needs */
	u32 groups[GROUPS_MAX];
	char path[4096];
	char *environment[ENV_MAX];
	_Alignas(16) u8 stack[16 << 10];
};

/* Take a copy of the payload of RUN apart: 0, -EINVAL, -E2BIG or -ENOMEM. */
long request_take(const u8 *payload, u32 n, struct request **r);

/* Note that a process has it from now on. */
void request_use(struct request *r, int pid);

/* Release the memory of one that no process uses. */
void request_drop(struct request *r);

/* Likewise of the one that a process has used until it ended, or executed its program. */
void request_left(int pid);

#endif
