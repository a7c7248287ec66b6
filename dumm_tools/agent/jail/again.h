/* again: execute a guest's kernel anew when it has panicked, or is stuck at a reboot, if its arguments ask
 * for that. */
#ifndef DUMM_AGAIN_H
#define DUMM_AGAIN_H

#include <stdbool.h>

/* Whether this is a kernel that reboots and has a process to start it again: then end. */
void again_if_kept(void);

/* Our own argument, which asks for a parent of the kernel also without `panic=`, and whether it is among
 * others. */
#define AGAIN_KEEP "DUMM_KEEP="
bool again_is_kept(char **argv);

/* For that parent: the kernel is stuck at a reboot (ending.h). */
#define AGAIN_STUCK SIGPWR

/* Stay as the parent of each kernel, which `execute` becomes, until one ends otherwise; return at once if
 * the arguments do not ask for that. */
void again(char **argv, void (*execute)(char **argv));

#endif
