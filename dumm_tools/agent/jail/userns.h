/* The program's user namespace. */
#ifndef DUMM_USERNS_H
#define DUMM_USERNS_H

#include "base.h"

/* A user namespace of `owner`'s as a descriptor, that maps our ids one to one. */
int make_user_namespace(uid_t owner);

/* In a chroot(2) the kernel makes no user namespaces, and a root that is no mount cannot be pivoted
 * from. Entering the mount namespace that we are in makes its root ours (setns(2)). */
void leave_chroot(void);

#endif
