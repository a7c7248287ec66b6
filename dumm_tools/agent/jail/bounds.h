/* Restrictions of the program: capabilities, limits. */
#ifndef DUMM_BOUNDS_H
#define DUMM_BOUNDS_H

#include "order.h"

/* Keep only the capabilities that hostfs needs, for a program whose real user is `user`. */
void drop_capabilities(uid_t user);

/* Keep none. */
void drop_all_capabilities(void);

/* Set the limits per process and per user. */
void set_limits(const struct order *o);

/* Limit the number of processes in our pid namespace, if the host supports it; 0: no limit. */
void limit_pids(rlim_t processes);

#endif
