/* The end of a guest. */
#ifndef DUMM_POWER_H
#define DUMM_POWER_H

#include "agent.h"

/* Power off or reboot, as requested by POWER_OFF or POWER_REBOOT. */
void power(char how) __attribute__((noreturn));

#endif
