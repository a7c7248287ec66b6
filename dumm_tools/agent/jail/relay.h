/* The messages between a kernel and the server of its files. */
#ifndef DUMM_RELAY_H
#define DUMM_RELAY_H

#include <stdbool.h>

/* Accept a connection of a kernel, and pass on messages between it and the server until one of them
 * closes its end; return whether it was the kernel. */
bool relay(int kernels, int server);

#endif
