/* Confinement of signals and abstract sockets (landlock(7)). */
#ifndef DUMM_LANDLOCK_H
#define DUMM_LANDLOCK_H

/* From here on, this process and its children can signal only each other, and reach only their own
 * abstract sockets, which belong to the network namespace, and that is shared. */
void confine_to_own(void);

#endif
