/* A guest with an init is a machine of its own. */
#ifndef DUMM_MACHINE_H
#define DUMM_MACHINE_H

#include "agent.h"

/* Replace a file that the master brings: PATH and TEXT of BOOT_OWN. */
void machine_own(char *payload, u32 length);

/* Replace the master's SSH host keys: the names of BOOT_KEYS. */
void machine_keys(char *payload, u32 length);

/* The above are not to be done again at a reboot. */
void machine_known(void);

/* Move a process to a control group of its own, with its future children, before the init looks: systemd
 * takes what is in its own for a part of init.scope, and ends all of that once memory has run out there. */
void machine_set_apart(int pid);

/* Keep the guest's init, and its kernel, from ending us before it ends the guest. */
void machine_protect(void);

/* Take that protection from a program that we start. */
void machine_expose(void);

#endif
