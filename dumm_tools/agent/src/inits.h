/* The inits that a guest may have, and how far those have come that send no messages. */
#ifndef DUMM_INITS_H
#define DUMM_INITS_H

#include "text.h"

enum init { INIT_NONE, INIT_SYSTEMD, INIT_SYSV, INIT_BUSYBOX, INIT_OPENRC, INIT_RUNIT, INIT_OTHER };

/* The kind of a program, before it is executed. */
enum init inits_kind(const char *path);

/* The name that the host knows it by: none, systemd, inittab, openrc, runit or other. */
const char *inits_name(enum init kind);

/* Whether it does nothing any more that belongs to the boot. It may just be between two commands. */
bool inits_rests(enum init kind);

/* Whether it has begun to end the guest. */
bool inits_ends(enum init kind);

#endif
