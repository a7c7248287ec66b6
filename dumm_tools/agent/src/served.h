/* A root file system that the host serves by virtiofs. */
#ifndef DUMM_SERVED_H
#define DUMM_SERVED_H

#include "agent.h"

/* Mount a directory of the virtiofs with this tag; the jail's root, with the modules, is on /host. Return the
 * kernel's result. */
long mount_served(const char *tag, const char *directory, const char *target);

#endif
