/* Handling requests in frames, and the work that goes on without them. */
#ifndef DUMM_SERVE_H
#define DUMM_SERVE_H

#include "agent.h"

/* Read requests from the host and carry them out. */
void serve_read(struct line *l);

/* Do everything that can be done without waiting; called after each round of poll. */
void serve_work(struct line *l);

#endif
