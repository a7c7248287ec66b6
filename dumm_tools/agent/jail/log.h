/* The log of what the program prints. */
#ifndef DUMM_LOG_H
#define DUMM_LOG_H

/* Have log_some write to `fd`. */
void log_to(int fd);

/* Write to the log what `input`, which does not block, has to say: 1, 0 when it has nothing now, -1
 * when nothing will come any more. */
int log_some(int input);

#endif
