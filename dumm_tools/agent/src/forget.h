/* Having the guest's kernel forget files before their server has no descriptors left. */
#ifndef DUMM_FORGET_H
#define DUMM_FORGET_H

#include "sys.h"

/* The server may have so many. Without this call, there are enough for all that the kernel can
 * remember. */
void forget_beyond(u32 descriptors);

/* Look whether it is time. Call this again after forget_patience() milliseconds (-1: never). */
void forget_look(void);
int forget_patience(void);

#endif
