/* The end of a guest. */
#ifndef DUMM_POWER_H
#define DUMM_POWER_H

#include "agent.h"

/* Whether a command, if it succeeds, makes the guest's own init end the guest. */
bool power_is_asked_for(char **argv);

/* Say that the guest is about to end. */
void power_announce(void);

/* Say that it is not, after all. */
void power_withdraw(void);

/* Power off or reboot, as requested by POWER_OFF or POWER_REBOOT. */
void power(char how) __attribute__((noreturn));

#endif
