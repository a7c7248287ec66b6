/* The end of a guest. */
#ifndef DUMM_POWER_H
#define DUMM_POWER_H

#include "agent.h"

/* End as POWER_OFF or POWER_REBOOT says. */
void power(char how) __attribute__((noreturn));

#endif
