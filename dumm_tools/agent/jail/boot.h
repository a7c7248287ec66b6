/* boot: execute a guest's kernel, at its start and again at each of its reboots. */
#ifndef DUMM_BOOT_H
#define DUMM_BOOT_H

void run_boot(char **argv) __attribute__((noreturn));

#endif
