/* The log of the program's output. */
#ifndef DUMM_LOG_H
#define DUMM_LOG_H

#include <stddef.h>

/* Set the descriptor that log_some writes to. */
void log_to(int fd);

/* Copy available data from the non-blocking `input` to the log: 1, 0 if there is none at present, -1
 * at the end. */
int log_some(int input);

/* Read the last bytes of the log, at most `n`, and return their number. */
size_t log_tail(char *tail, size_t n);

/* Add a text to the log. */
void log_text(const char *text);

#endif
