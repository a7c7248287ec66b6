/* Whom the program reaches (landlock(7)). */
#ifndef DUMM_LANDLOCK_H
#define DUMM_LANDLOCK_H

/* From here on, this process and its children signal none but each other, and know no abstract
 * sockets but their own: those belong to the network namespace, which is not the jail's own. */
void confine_to_own(void);

#endif
