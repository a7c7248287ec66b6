#include "bounds.h"

#include <linux/capability.h>
#include <sys/utsname.h>

/* What hostfs asks of the host for a guest whose root user is root: owners and modes. */
static const int KEPT[] = { CAP_CHOWN, CAP_DAC_OVERRIDE, CAP_FOWNER, CAP_FSETID };

/* Is the host's kernel of this release, or of a later one? */
static bool host_is(int major, int minor)
{
	struct utsname host;
	int has, and;

	return !uname(&host) && sscanf(host.release, "%d.%d", &has, &and) == 2 &&
	       (has > major || (has == major && and >= minor));
}

void drop_capabilities(uid_t user)
{
	struct __user_cap_header_struct head = { _LINUX_CAPABILITY_VERSION_3, 0 };
	struct __user_cap_data_struct data[2] = { { 0, 0, 0 }, { 0, 0, 0 } };

	for (size_t i = 0; i < sizeof KEPT / sizeof *KEPT; i++)
		data[KEPT[i] / 32].permitted |= 1U << KEPT[i] % 32;
	for (int i = 0; i < 2; i++)
		data[i].effective = data[i].permitted;
	/* UML 6.12 and newer execute themselves until ADDR_NO_RANDOMIZE stays, which exec clears for a
	 * root that gains capabilities: so the bounding set must be the permitted one. */
	for (int cap = 0; prctl(PR_CAPBSET_READ, cap, 0, 0, 0) >= 0; cap++)
		if (!(data[cap / 32].permitted & 1U << cap % 32) &&
		    prctl(PR_CAPBSET_DROP, cap, 0, 0, 0))
			die("cannot drop capability %d", cap);
	prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0);
	/* Before Linux 6.18 (or a little earlier), exec under no_new_privs takes a real user that is another
	 * for the effective one, too. What could give new privileges is not there in any case: all mounts
	 * are nosuid, and the bounding set is what root keeps. Filters then take CAP_SYS_ADMIN to set,
	 * which exec drops: it is not in the bounding set. */
	bool keeps_user = !user || host_is(6, 18);

	if (!keeps_user) {
		data[0].permitted |= 1U << CAP_SYS_ADMIN;
		data[0].effective |= 1U << CAP_SYS_ADMIN;
	}
	if (syscall(SYS_capset, &head, data))
		die("cannot drop capabilities");
	if (keeps_user && prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
		die("cannot forbid new privileges");
}

void drop_all_capabilities(void)
{
	struct __user_cap_header_struct head = { _LINUX_CAPABILITY_VERSION_3, 0 };
	struct __user_cap_data_struct none[2] = { { 0, 0, 0 }, { 0, 0, 0 } };

	if (syscall(SYS_capset, &head, none) || prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
		die("cannot drop capabilities");
}

static void limit(int which, rlim_t value)
{
	struct rlimit r;

	if (getrlimit(which, &r))
		die("cannot get a limit");
	if (value < r.rlim_max) /* we may be granted less ourselves, and can raise nothing */
		r.rlim_max = value;
	r.rlim_cur = r.rlim_max;
	if (setrlimit(which, &r))
		die("cannot set a limit");
}

/* What the host counts, for all of a user's processes or for each. Since Linux 5.14 those for all are
 * counted twice: in the jail's user namespace, where it is this limit that holds, and in the one that
 * made it, where all jails of a user add up to the limit that its maker had: that one is left as it
 * is. Before, one number counts all that the (real) user has, and is held against this limit.
 *
 * Signals that wait, timers among them: UML has one timer, for each processor at most. 6.1 and 6.12
 * run with a limit of 1, 7.2 reboots and halts with one of 2. Past the limit those below 32 are
 * queued all the same where kill(2) or the kernel sent them. */
void set_limits(const struct order *o)
{
	static const int none[] = { RLIMIT_CORE, RLIMIT_MEMLOCK, RLIMIT_MSGQUEUE, RLIMIT_NICE,
				    RLIMIT_RTPRIO };

	for (size_t i = 0; i < sizeof none / sizeof *none; i++)
		limit(none[i], 0);
	limit(RLIMIT_STACK, 1 << 20); /* a thread's stack is as large, and counts as data */
	if (o->data)
		limit(RLIMIT_DATA, o->data);
	if (o->processes)
		limit(RLIMIT_NPROC, o->processes);
	if (o->files)
		limit(RLIMIT_NOFILE, o->files);
	if (o->signals)
		limit(RLIMIT_SIGPENDING, o->signals);
}

/* More than RLIMIT_NPROC, which does not bind a real user 0: since Linux 6.14 a pid namespace has a
 * limit of its own (before, this file is the whole host's). Pids below 300 are not used twice. */
void limit_pids(rlim_t processes)
{
	char text[32];

	if (!processes || !host_is(6, 14))
		return;
	int fd = open("/proc/sys/kernel/pid_max", O_WRONLY | O_CLOEXEC);
	int n = snprintf(text, sizeof text, "%lu", 300 + processes);

	if (fd < 0) /* a container's read-only /proc */
		return;
	if (write(fd, text, (size_t)n) < 0)
		die("cannot limit processes");
	close(fd);
}
