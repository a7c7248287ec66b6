/* Users and groups, as passwd(5) and group(5) have them: no C library is asked. */
#ifndef DUMM_ACCOUNT_H
#define DUMM_ACCOUNT_H

#include "text.h"

struct account {
	u32 uid, gid;
	char *name, *home, *shell;
};

/* Find a user by name or number: a number may have no entry. */
bool account_find(const char *user, struct account *a);

/* Find a group by name; a number is its own. */
bool account_group(const char *group, u32 *gid);

/* The groups that a user is in beside its own, `max` at most; how many. */
int account_groups(const struct account *a, u32 *groups, int max);

#endif
