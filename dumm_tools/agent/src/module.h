/* Kernel modules: loaded with their dependencies. */
#ifndef DUMM_MODULE_H
#define DUMM_MODULE_H

#include "agent.h"

/* Read an index of the kernel's modules, such as "modules.dep". */
bool module_index(const char *file, char *buf, size_t size);

long module_load(const char *name);

/* Look for modules and their indexes in this directory from now on; NULL: in the guest's own. */
void module_place(const char *directory);

/* Have the kernel ask us for modules if the guest has no modprobe. */
void module_serve(void);

/* Load what the kernel has asked for: a module, or those that have the name as an alias. */
long module_request(const char *name);

#endif
