/* A program's stdin, from the line and from files of the host. */
#ifndef DUMM_INPUT_H
#define DUMM_INPUT_H

#include "agent.h"

#define FEED_ROOM 64		/* for the frames that acknowledge a program's stdin */

/* Feed bytes from the line; a file written by the host; more of the pending input. */
void input_take(struct line *l, const u8 *payload, u32 n);
void input_bulk(struct line *l, const u8 *payload, u32 n);
void input_feed(struct line *l);

#endif
