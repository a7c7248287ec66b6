#include "program.h"
#include "bounds.h"
#include "landlock.h"
#include "seccomp.h"

#include <grp.h>
#include <linux/securebits.h>
#include <sys/personality.h>

void run_program(const struct order *o, int userns, int output, int go)
{
	char c;

	for (unsigned i = 0; i < o->holds; i++)
		if ((int)(o->hold + i) != o->listen)
			close((int)(o->hold + i));
	/* A descriptor from outside would be on the host's mount, which is writable (see "dev"). */
	int null = open("/dev/null", O_RDWR | O_CLOEXEC);

	if (null < 0 || dup2(null, 0) < 0)
		die("cannot open '/dev/null'");
	if (dup2(output < 0 ? null : output, 1) < 0 || dup2(1, 2) < 0)
		die("cannot connect the output");
	if (setns(userns, CLONE_NEWUSER))
		die("cannot enter the user namespace");
	/* In a namespace with a single id, the kernel denies setgroups: then there is no group. */
	if (setgroups(o->group ? 1 : 0, &o->group) && errno != EPERM)
		die("cannot set groups");
	/* access(2) uses the real user, and would clear the capabilities of one other than root. A server
	 * acts as the users who create files, without the capabilities of root. */
	if (setresgid(0, 0, 0) || setresuid(o->user, 0, 0) ||
	    prctl(PR_SET_SECUREBITS, o->role == SERVER ? 0 : SECBIT_NO_SETUID_FIXUP, 0, 0, 0))
		die("cannot become root");
	drop_capabilities(o);
	set_limits(o);
	setsid();
	umask(0); /* the guest's kernel has applied the umask of its own process */
	personality(ADDR_NO_RANDOMIZE);
	if (read(go, &c, 1) != 1) /* the launcher died before it could record our pid */
		_exit(1);
	confine_to_own();
	filter_system_calls(o->role, o->passing);
	execv(o->argv[0], o->argv);
	die("cannot execute '%s'", o->argv[0]);
}
