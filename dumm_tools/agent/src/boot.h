/* From the kernel's first exec to a guest that answers. */
#ifndef DUMM_BOOT_H
#define DUMM_BOOT_H

#include "agent.h"

/* Mount the file systems of every guest, its root first, and read BOOT_FILE; return the length of what
 * it says. */
size_t boot_mounts(char *buf, size_t size);

/* Find out the release of the kernel. */
void boot_release(void);

/* Carry out these instructions. Return the path of the guest's own init, or NULL. */
const char *boot_configure(char *buf, size_t length);

/* Write the nonce of this boot to where the host's reading commands look for it. */
void boot_ready(void);

#endif
