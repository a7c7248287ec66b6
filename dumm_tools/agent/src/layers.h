/* The guest's root file system: changing to another one while the guest runs. */
#ifndef DUMM_LAYERS_H
#define DUMM_LAYERS_H

#include "agent.h"

/* Make the tree that is now at /guest in the jail (an empty tag), or in a directory of the virtiofs with
 * this tag, the root file system of all processes in our mount namespace. Afterwards, the file systems
 * that are mounted in the old one are in the new one. If that fails, nothing has changed. */
long layers_change(const char *tag, const char *directory);

#endif
