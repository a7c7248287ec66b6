/* jail: run a program in namespaces and a file system of its own. */
#ifndef DUMM_JAIL_H
#define DUMM_JAIL_H

int run_jail(int argc, char **argv);

#endif
