/* The startup program of a guest: a script of the lab, or the command of an image. */
#ifndef DUMM_STARTUP_H
#define DUMM_STARTUP_H

#include "agent.h"

/* Take a BOOT_STARTUP, which must stay in memory, and read the script. */
void startup_take(u32 how, u8 *request, u32 n);

/* Run the program, if there is one that has not been run yet. */
void startup_run(void);

/* Whether there is one that has not been run yet. */
bool startup_is_waiting(void);

/* Whether nothing that counts as part of the boot is left to do. */
bool startup_is_over(void);

/* Its state: none, running, done, or failed with an exit status. */
const char *startup_state(void);

/* The descriptors to poll: its output, and its report before exec. */
int startup_output(void);
int startup_report(void);

/* Move its output to the log; read its report; note that a child has ended. */
void startup_drain(void);
void startup_started(void);
void startup_reap(int pid, int status);

#endif
