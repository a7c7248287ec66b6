/* Confinement of signals and abstract sockets (landlock(7)). */
#include "landlock.h"
#include "base.h"

/* linux/landlock.h, as of Linux 6.12 */
struct ruleset {
	__u64 files, network, scoped;
};
#define SCOPE_ABSTRACT_SOCKETS 1
#define SCOPE_SIGNALS 2
#ifndef SYS_landlock_create_ruleset
#define SYS_landlock_create_ruleset 444
#define SYS_landlock_restrict_self 446
#endif

void confine_to_own(void)
{
	struct ruleset rules = { 0, 0, SCOPE_ABSTRACT_SOCKETS | SCOPE_SIGNALS };
	long fd = syscall(SYS_landlock_create_ruleset, &rules, sizeof rules, 0);

	if (fd < 0) /* the host's kernel has no Landlock, or an older version */
		return;
	if (syscall(SYS_landlock_restrict_self, fd, 0))
		die("cannot confine the program");
	close((int)fd);
}
