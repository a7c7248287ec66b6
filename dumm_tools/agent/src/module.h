/* Kernel modules: loaded with their dependencies. */
#ifndef DUMM_MODULE_H
#define DUMM_MODULE_H

#include "agent.h"

long module_load(const char *name);

/* Look for modules and their indexes in this directory from now on; NULL: in the guest's own. */
void module_place(const char *directory);

#endif
