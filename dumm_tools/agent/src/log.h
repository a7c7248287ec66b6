/* The output of the startup program, in a file on the host that never gets long. */
#ifndef DUMM_LOG_H
#define DUMM_LOG_H

#include "agent.h"

/* Begin an empty log. */
void log_open(const char *path);

/* Append to the log. The older half is discarded when it has become too long; its first line then says
 * so, as in the console log (jail/log.c). */
void log_write(const void *data, u32 n);

#endif
