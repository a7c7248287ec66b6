/* The jail's file system. */
#ifndef DUMM_ROOT_H
#define DUMM_ROOT_H

#include "order.h"

/* Make it by these steps, and enter it: nothing else of the host's is there. */
void build_root(struct step *steps, int n);

#endif
