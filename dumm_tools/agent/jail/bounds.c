#include "bounds.h"

#include <linux/capability.h>
#include <sys/utsname.h>

/* Needed for the root user of a guest to change owners and modes, by hostfs or by a server. */
#define FILES (bit(CAP_CHOWN) | bit(CAP_DAC_OVERRIDE) | bit(CAP_FOWNER) | bit(CAP_FSETID))

#define DISKS "/disks/"

static unsigned long long bit(int capability)
{
	return 1ULL << capability;
}

/* Whether there are disks among the mounts (disks.py). */
static bool has_disks(const struct order *o)
{
	for (int i = 0; i < o->n; i++)
		if (o->steps[i].b && !strncmp(o->steps[i].b, DISKS, strlen(DISKS)))
			return true;
	return false;
}

/* A client has no files that another user than root owns, except disks. A server creates files as a
 * guest's users, and stores capabilities of programs (capabilities(7), file capabilities). virtiofsd
 * clears its bounding set, or does not start. */
static unsigned long long kept(const struct order *o)
{
	switch (o->role) {
	case KERNEL:
		return FILES;
	case SERVER:
		return FILES | bit(CAP_SETUID) | bit(CAP_SETGID) | bit(CAP_SETFCAP) | bit(CAP_SETPCAP);
	default:
		return has_disks(o) ? bit(CAP_DAC_OVERRIDE) : 0;
	}
}

/* Whether the host's kernel is of this release or later. */
static bool host_is(int major, int minor)
{
	struct utsname host;
	int has, and;

	return !uname(&host) && sscanf(host.release, "%d.%d", &has, &and) == 2 &&
	       (has > major || (has == major && and >= minor));
}

void drop_capabilities(const struct order *o)
{
	const unsigned long long keep = kept(o);
	struct __user_cap_header_struct head = { _LINUX_CAPABILITY_VERSION_3, 0 };
	struct __user_cap_data_struct data[2] = { { 0, 0, 0 }, { 0, 0, 0 } };

	for (int i = 0; i < 2; i++)
		data[i].effective = data[i].permitted = (unsigned)(keep >> 32 * i);
	/* UML 6.12 and later re-execute themselves until ADDR_NO_RANDOMIZE stays set. exec clears it
	 * for a root that gains capabilities, so the bounding set must equal the permitted set. */
	for (int cap = 0; prctl(PR_CAPBSET_READ, cap, 0, 0, 0) >= 0; cap++)
		if (!(keep & bit(cap)) && prctl(PR_CAPBSET_DROP, cap, 0, 0, 0))
			die("cannot drop capability %d", cap);
	prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0);
	/* Before Linux 6.18 (or a little earlier), exec under no_new_privs sets the effective user to a
	 * different real user. Nothing could grant new privileges in any case: all mounts are nosuid, and
	 * the bounding set equals what root keeps. Without no_new_privs, installing filters takes
	 * CAP_SYS_ADMIN, which exec drops: it is not in the bounding set. */
	bool keeps_user = !o->user || host_is(6, 18);

	if (!keeps_user) {
		data[0].permitted |= 1U << CAP_SYS_ADMIN;
		data[0].effective |= 1U << CAP_SYS_ADMIN;
	}
	if (syscall(SYS_capset, &head, data))
		die("cannot drop capabilities");
	if (keeps_user && prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
		die("cannot forbid new privileges");
}

void drop_all_but_killing(void)
{
	const unsigned keep = 1U << CAP_KILL;
	struct __user_cap_header_struct head = { _LINUX_CAPABILITY_VERSION_3, 0 };
	struct __user_cap_data_struct data[2] = { { keep, keep, 0 }, { 0, 0, 0 } };

	if (syscall(SYS_capset, &head, data) || prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
		die("cannot drop capabilities");
}

static void limit(int which, rlim_t value)
{
	struct rlimit r;

	if (getrlimit(which, &r))
		die("cannot get a limit");
	if (value < r.rlim_max) /* our own limit may be lower, and cannot be raised */
		r.rlim_max = value;
	r.rlim_cur = r.rlim_max;
	if (setrlimit(which, &r))
		die("cannot set a limit");
}

/* Limits per process, and per user. Since Linux 5.14 the latter are counted twice: in the jail's user
 * namespace, against this limit, and in the parent user namespace, where all jails of a user count
 * against the limit of their creator, which is left as it is. Before, there is one count of all that
 * the (real) user has, which is compared with this limit.
 *
 * Pending signals include timers: UML has at most one timer per processor. 6.1 and 6.12 run with a
 * limit of 1, 7.2 reboots and halts with 2. Beyond the limit, signals below 32 are still queued if
 * they were sent by kill(2) or the kernel. */
void set_limits(const struct order *o)
{
	static const int none[] = { RLIMIT_CORE, RLIMIT_MEMLOCK, RLIMIT_MSGQUEUE, RLIMIT_NICE,
				    RLIMIT_RTPRIO };

	for (size_t i = 0; i < sizeof none / sizeof *none; i++)
		limit(none[i], 0);
	limit(RLIMIT_STACK, 1 << 20); /* also the size of thread stacks, which count as data */
	if (o->data)
		limit(RLIMIT_DATA, o->data);
	if (o->processes)
		limit(RLIMIT_NPROC, o->processes);
	if (o->files)
		limit(RLIMIT_NOFILE, o->files);
	if (o->signals)
		limit(RLIMIT_SIGPENDING, o->signals);
}

void raise_limit_of_files(rlim_t files)
{
	struct rlimit r;

	if (!getrlimit(RLIMIT_NOFILE, &r) && r.rlim_max < files) {
		r.rlim_max = files;
		setrlimit(RLIMIT_NOFILE, &r);
	}
}

/* In addition to RLIMIT_NPROC, which does not apply to a real user 0: since Linux 6.14 each pid
 * namespace has its own limit (before, this file is host-wide). Pids below 300 are not reused. */
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
