/* Processes that still use a root file system that is no longer the guest's. */
#ifndef DUMM_HOLDERS_H
#define DUMM_HOLDERS_H

#include "agent.h"

/* The mount of that, as in /proc/PID/fdinfo. */
void holders_of(u32 mount);

/* Write a line "PID KIND COMMAND" for each of them, where KIND is 'n' if it has a mount namespace of its
 * own, and 'f' if it has a file or its directory there; return the length. */
size_t holders_list(char *text, size_t size);

#endif
