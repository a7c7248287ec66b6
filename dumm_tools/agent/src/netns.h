/* The guest's other network namespaces. */
#ifndef DUMM_NETNS_H
#define DUMM_NETNS_H

#include "agent.h"

/* Make a route netlink socket in another network namespace of the guest; they are numbered from 1 on.
 * -ENOENT after the last one. */
long netns_socket(u32 number);

/* Make one in our own network namespace. */
int netns_own_socket(void);

#endif
