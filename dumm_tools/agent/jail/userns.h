/* The program's user namespace. */
#ifndef DUMM_USERNS_H
#define DUMM_USERNS_H

#include "base.h"

/* A descriptor of a new user namespace that belongs to `owner` and maps our ids one to one. */
int make_user_namespace(uid_t owner);

/* In a chroot(2) the kernel does not create user namespaces, and pivot_root(2) needs a root that is a
 * mount point. Entering our own mount namespace makes its root ours (setns(2)). */
void leave_chroot(void);

#endif
