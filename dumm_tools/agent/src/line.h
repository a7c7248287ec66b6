/* Lines: opening them, and framing in both directions. */
#ifndef DUMM_LINE_H
#define DUMM_LINE_H

#include "agent.h"

/* The handler of a frame from the host; its payload is followed by a NUL that is not counted. */
typedef void line_handler(struct line *l, u8 type, u8 *payload, u32 n);

/* Open line `number`; return false if there is none. */
bool line_open(int number);

/* Process the received data frame by frame. */
void line_read(struct line *l, line_handler *handle);

/* Write as much queued data as the line accepts. */
void line_write(struct line *l);

/* Queue a frame for the host; return false if there is no room for it. */
bool line_send(struct line *l, u8 type, const void *payload, u32 n);

/* The size of the largest payload that there is room for. */
u32 line_room(const struct line *l);

#endif
