/* Kernel modules: loaded with their dependencies. */
#ifndef DUMM_MODULE_H
#define DUMM_MODULE_H

#include "agent.h"

long module_load(const char *name);

#endif
