/* The guest's clock. */
#ifndef DUMM_CLOCK_H
#define DUMM_CLOCK_H

#include "sys.h"

/* Whether it moves: a kernel that was given no timer by its host boots all the same. */
bool clock_moves(void);

#endif
