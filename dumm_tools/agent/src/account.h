/* Users and groups, read from passwd(5) and group(5) without a C library. */
#ifndef DUMM_ACCOUNT_H
#define DUMM_ACCOUNT_H

#include "text.h"

struct account {
	u32 uid, gid;
	char *name, *home, *shell;
};

/* These read the files into `room`, where what they find stays. */

/* Find a user by name or number; a number need not have an entry. */
bool account_find(const char *user, struct account *a, struct room *room);

/* Find a group by name or number. */
bool account_group(const char *group, u32 *gid, struct room *room);

/* Find the supplementary groups of a user, at most `max`; return their number. */
int account_groups(const struct account *a, u32 *groups, int max, struct room *room);

#endif
