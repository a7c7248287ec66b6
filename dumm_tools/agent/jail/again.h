/* again: execute a guest's kernel anew when it has panicked, if its arguments ask for that. */
#ifndef DUMM_AGAIN_H
#define DUMM_AGAIN_H

/* Whether this is a kernel that reboots and has a process to start it again: then end. */
void again_if_kept(void);

/* The seconds until a kernel that has panicked reboots, as `panic=` in the arguments says; negative: at
 * once; 0: never. */
int again_after(char **argv);

/* Stay as the parent of each kernel, which `execute` becomes, until one ends otherwise. */
void __attribute__((noreturn)) again(char **argv, int seconds, void (*execute)(char **argv));

#endif
