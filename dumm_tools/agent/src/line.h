/* Lines: opened, and framed both ways. */
#ifndef DUMM_LINE_H
#define DUMM_LINE_H

#include "agent.h"

/* What is done with a frame from the host; its payload ends with a NUL that is not counted. */
typedef void line_handler(struct line *l, u8 type, u8 *payload, u32 n);

/* Open line `number`; false where there is none. */
bool line_open(int number);

/* Take what has come, frame by frame. */
void line_read(struct line *l, line_handler *handle);

/* Write as much of what is queued as the line takes. */
void line_write(struct line *l);

/* Queue a frame for the host; false when there is no room for it. */
bool line_send(struct line *l, u8 type, const void *payload, u32 n);

/* The largest payload that there is room for. */
u32 line_room(const struct line *l);

#endif
