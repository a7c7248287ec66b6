/* Rules for system calls that kernels and servers have in common. */
#ifndef DUMM_RULES_H
#define DUMM_RULES_H

/* Other architectures have none. */
void rule_architecture(void);

void rule_mmap(void);
void rule_clone(void);
void rule_limits(void);

/* bind or connect: the name is a file's (see rule_sockets in seccomp.c). */
void rule_address(int number);

#endif
