/* A program's stdin: from the line, and from files of the host. */
#ifndef DUMM_INPUT_H
#define DUMM_INPUT_H

#include "agent.h"

#define FEED_ROOM 64		/* for the frames that say what a program took of its stdin */

/* Bytes that came by the line; a file that the host has written; more of what waits. */
void input_take(struct line *l, const u8 *payload, u32 n);
void input_bulk(struct line *l, const u8 *payload, u32 n);
void input_feed(struct line *l);

#endif
