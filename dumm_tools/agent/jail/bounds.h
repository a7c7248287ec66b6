/* What bounds the program: capabilities, limits. */
#ifndef DUMM_BOUNDS_H
#define DUMM_BOUNDS_H

#include "order.h"

/* Keep only the capabilities that hostfs needs, for a program whose real user is `user`. */
void drop_capabilities(uid_t user);

/* Keep none. */
void drop_all_capabilities(void);

/* Set what the host counts for each process, and for all of a user's. */
void set_limits(const struct order *o);

/* Limit the processes in our pid namespace, where the host can; 0: no limit. */
void limit_pids(rlim_t processes);

#endif
