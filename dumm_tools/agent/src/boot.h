/* From the kernel's first exec to a guest that can be talked to. */
#ifndef DUMM_BOOT_H
#define DUMM_BOOT_H

#include "agent.h"

/* Mount what every guest has: its root first. */
void boot_mounts(void);

/* Do what the host wrote to BOOT_FILE. The path of the guest's own init, or NULL. */
const char *boot_configure(char *buf, size_t size);

/* Leave the nonce of this boot where the host's reading commands look for it. */
void boot_ready(void);

#endif
