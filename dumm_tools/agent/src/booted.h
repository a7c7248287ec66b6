/* Whether the guest's own init has come up, found out without any program of the guest. */
#ifndef DUMM_BOOTED_H
#define DUMM_BOOTED_H

#include "agent.h"

/* Prepare for an init, before it is executed. Return a variable for its environment, or NULL. */
const char *booted_expect(const char *init);

/* There is none after all. */
void booted_forget(void);

/* The descriptor to poll for messages of the init, and taking them. */
int booted_messages(void);
void booted_take(void);

/* Note who has sent SIGTERM: the init of busybox does before it ends the guest. */
void booted_terminated(int sender);

/* Whether the guest is about to end, by its init or by ourselves. */
bool booted_ends(void);

/* Forget what was seen of an init that sends no messages: it may be about to end the guest. */
void booted_look_again(void);

/* Whether the init has come up. If not, and if it sends no messages, call this again after BOOTED_LOOK
 * milliseconds. */
bool booted_init(void);
#define BOOTED_LOOK 50
bool booted_must_look(void);

/* The kind of init: none, systemd, inittab, openrc, runit or other. */
const char *booted_kind(void);

#endif
