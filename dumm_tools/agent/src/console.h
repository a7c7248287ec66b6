/* The raw console. */
#ifndef DUMM_CONSOLE_H
#define DUMM_CONSOLE_H

#include "agent.h"

/* A login shell for input there, if the guest has no init of its own. */
void console_shell(void);

#endif
