/* Rules for system calls that kernels and servers have in common. */
#include "rules.h"
#include "filter.h"

#include <linux/audit.h>
#include <sys/mman.h>
#include <sys/un.h>

#define MAPPINGS                                                                              \
	(MAP_SHARED | MAP_PRIVATE | MAP_FIXED | MAP_ANONYMOUS | MAP_NORESERVE | MAP_STACK |           \
	 MAP_DENYWRITE | MAP_EXECUTABLE)

/* Flags used by fork(3), pthread_create(3), posix_spawn(3) and UML. */
#define CLONES                                                                                \
	(CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_VFORK | CLONE_THREAD |             \
	 CLONE_SYSVSEM | CLONE_SETTLS | CLONE_PARENT | CLONE_PARENT_SETTID | CLONE_CHILD_CLEARTID |   \
	 CLONE_CHILD_SETTID)

void rule_architecture(void)
{
	load(offsetof(struct seccomp_data, arch));
	skip_if(AUDIT_ARCH_X86_64);
	deny(ENOSYS);
	load(offsetof(struct seccomp_data, nr));
}

/* No memory that is limited neither by the size of /dev/shm nor by RLIMIT_DATA: memory that grows like
 * a stack, huge pages, or anonymous shared memory. UML 7 uses two such pages to test for seccomp. */
void rule_mmap(void)
{
	unsigned short call = begin_call(SYS_mmap);

	load_argument(3);
	need_bits(MAPPINGS, ENOMEM);
	mask(MAP_SHARED | MAP_ANONYMOUS);
	skip_if(MAP_SHARED | MAP_ANONYMOUS); /* MAP_SHARED_VALIDATE has the bit of MAP_SHARED */
	answer(SECCOMP_RET_ALLOW);
	load_argument(1);
	skip_unless_above(8192);
	deny(ENOMEM);
	load(offsetof(struct seccomp_data, args) + 8 + 4); /* and the upper half of the length */
	skip_if(0);
	deny(ENOMEM);
	answer(SECCOMP_RET_ALLOW);
	end_call(call);
}

/* No namespaces, no tracing from birth, no exit signal other than SIGCHLD. */
void rule_clone(void)
{
	unsigned short call = begin_call(SYS_clone);

	load_argument(0);
	need_bits(CLONES | CSIGNAL, EPERM);
	mask(CSIGNAL);
	skip_unless(0);
	answer(SECCOMP_RET_ALLOW);
	skip_if(SIGCHLD);
	deny(EPERM);
	answer(SECCOMP_RET_ALLOW);
	end_call(call);
}

/* Its own limits. */
void rule_limits(void)
{
	unsigned short call = begin_call(SYS_prlimit64);

	need_argument(0, 0, 0, EPERM);
	answer(SECCOMP_RET_ALLOW);
	end_call(call);
}

void rule_address(int number)
{
	unsigned short call = begin_call(number);

	need_argument(2, 0, sizeof(struct sockaddr_un), EINVAL);
	answer(SECCOMP_RET_ALLOW);
	end_call(call);
}
