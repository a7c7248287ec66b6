/* The jail's file system. */
#ifndef DUMM_ROOT_H
#define DUMM_ROOT_H

#include "order.h"

/* Build it with these steps, and enter it: nothing else of the host is visible there. */
void build_root(struct step *steps, int n);

#endif
