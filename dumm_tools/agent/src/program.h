/* Programs: starting them on a line, draining their output, reaping them. */
#ifndef DUMM_PROGRAM_H
#define DUMM_PROGRAM_H

#include "agent.h"

/* Start a program; `payload` is that of RUN. */
void program_run(struct line *l, u8 *payload, u32 n);

/* Read the child's report before exec: nothing (success), or an errno and its subject. */
void program_started(struct line *l);

/* Move the program's output into frames, as far as the line has room. */
void program_drain(struct line *l, int *fd, u8 type);

/* After the program has ended: send the data left in its pipes, then its status. */
void program_finish(struct line *l);

/* Signal the program's group, or the program itself until it leads one. */
void program_signal(const struct program *p, int number);

/* Forget the line's program; if it is still running, it loses its terminal. */
void program_drop(struct line *l);

#endif
