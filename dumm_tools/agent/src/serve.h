/* What a frame asks for, and what goes on without one. */
#ifndef DUMM_SERVE_H
#define DUMM_SERVE_H

#include "agent.h"

/* Read what the host says, and do it. */
void serve_read(struct line *l);

/* Everything that can move without waiting: called after each round of poll. */
void serve_work(struct line *l);

#endif
