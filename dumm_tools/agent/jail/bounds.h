/* Restrictions of the program: capabilities, limits. */
#ifndef DUMM_BOUNDS_H
#define DUMM_BOUNDS_H

#include "order.h"

/* Keep only the capabilities that the program needs in its user namespace. */
void drop_capabilities(const struct order *o);

/* Keep what the keeper needs: a server's processes can become any user, and have to end nevertheless. */
void drop_all_but_killing(void);

/* Set the limits per process and per user. */
void set_limits(const struct order *o);

/* Raise our own limit if the program is to have a higher one and we may; if not, it gets ours. */
void raise_limit_of_files(rlim_t files);

/* Limit the number of processes in our pid namespace, if the host supports it; 0: no limit. */
void limit_pids(rlim_t processes);

#endif
