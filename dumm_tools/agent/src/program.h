/* Programs: started on a line, drained, and reaped. */
#ifndef DUMM_PROGRAM_H
#define DUMM_PROGRAM_H

#include "agent.h"

/* Start a program; `payload` is that of RUN. */
void program_run(struct line *l, u8 *payload, u32 n);

/* Take the child's last words before exec: nothing (it worked), or an errno and what failed. */
void program_started(struct line *l);

/* Move what the program wrote into frames, as far as the line has room. */
void program_drain(struct line *l, int *fd, u8 type);

/* When the program is gone: send what is left in its pipes, then its status. */
void program_finish(struct line *l);

/* Signal the program's group; itself while it has not come so far as to lead one. */
void program_signal(const struct program *p, int number);

/* Forget the line's program; one that still runs has lost its terminal. */
void program_drop(struct line *l);

#endif
