/* jail: run a program in namespaces and a file system of its own.
 *
 *   jail --errors FD --pid-file FILE [--turn FD] [--hold FIRST COUNT] [--log FD] [--group GID]
 *        [--user UID] [--data BYTES] [--processes N] [--files N] [--signals N] [--passing 0|1]
 *        [--cgroup DIRECTORY] [--hostname NAME]
 *        [--bind|--ro-bind|--dev SRC DST | --tmpfs DST OPTIONS | --dir DST |
 *        --symlink TARGET DST]... -- PROGRAM ARG...
 *
 * There are three processes. The *launcher* is what the caller starts. It makes the *keeper*, pid 1
 * of new pid, mount, ipc and uts namespaces over an empty root with just what was named. The
 * keeper starts the *program* in a user namespace of its own that maps the ids one to one: it is
 * root there, owns no namespace that it sees, and can make no other; it keeps only what hostfs
 * needs (capabilities(7)), and the system calls of seccomp.c.
 *
 * The keeper alone has the COUNT descriptors from FIRST on, which are locks: so the program can
 * neither release nor touch them. It cannot reach the keeper either, which lives in the user
 * namespace above. The keeper writes what the program prints to the log FD (log.c). When the program
 * ends, the keeper kills what it left, and ends. Other descriptors that are not close-on-exec go to
 * the program.
 *
 * With --user the program's real user is one that nobody else is, while it still is root of its user
 * namespace otherwise. What the host counts by real user it then has to itself: processes, and
 * struct user_struct (linux/sched/user.h) with descriptors in messages that nobody has received,
 * files that epoll(7) watches, and memory for pipes. Its user namespace belongs to that user too: so
 * the host's other counts by user (ucounts) are its own as well, up to the user namespace of the
 * lab, if that has one: there they are added to its owner's.
 *
 * The launcher writes the program's "PID STARTTIME" (proc_pid_stat(5), field 22) to FILE before the
 * program may start, and returns as soon as it has. What fails is one line on descriptor FD. The
 * lock of --turn is free as soon as the program runs: so whoever waits for it finds the FILE, or
 * that there is no program.
 */
#include "jail.h"
#include "order.h"

#include <grp.h>
#include <linux/capability.h>
#include <linux/mount.h>
#include <linux/securebits.h>
#include <poll.h>
#include <sys/personality.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/utsname.h>

#ifndef MOUNT_ATTR_RDONLY
#error "linux/mount.h is too old: Linux 5.12 headers or newer are needed"
#endif

/* What hostfs asks of the host for a guest whose root user is root: owners and modes. */
static const int KEPT[] = { CAP_CHOWN, CAP_DAC_OVERRIDE, CAP_FOWNER, CAP_FSETID };

/* In a chroot(2) the kernel makes no user namespaces, and a root that is no mount cannot be pivoted
 * from. Entering the mount namespace that we are in makes its root ours (setns(2)). */
static void leave_chroot(void)
{
	int fd = open("/proc/self/ns/mnt", O_RDONLY | O_CLOEXEC);

	if (fd >= 0) {
		setns(fd, CLONE_NEWNS); /* who may not is in no chroot that he could leave */
		close(fd);
	}
}

/* ---- the user namespace ---- */

/* Give process `pid` the ids that we have ourselves, one to one. */
static void map_ids(pid_t pid, const char *which)
{
	char path[64], map[8192], *p = map;
	unsigned long inside, outside, count;

	snprintf(path, sizeof path, "/proc/self/%s", which);
	FILE *own = fopen(path, "re");

	if (!own)
		die("cannot read '%s'", path);
	while (fscanf(own, "%lu %lu %lu", &inside, &outside, &count) == 3 &&
	       p < map + sizeof map - 64)
		p += sprintf(p, "%lu %lu %lu\n", inside, inside, count);
	fclose(own);
	snprintf(path, sizeof path, "/proc/%d/%s", pid, which);
	write_file(path, map);
}

/* Have `user` own what is made; its capabilities stay with a root that becomes another user. */
static void own_as(uid_t user)
{
	if (prctl(PR_SET_SECUREBITS, SECBIT_NO_SETUID_FIXUP, 0, 0, 0) || setresuid(-1, user, -1))
		die("cannot become user %u", user);
}

/* A user namespace of `owner`'s as a descriptor. A process that lives just for this makes it, and
 * forbids further ones: /proc/sys/user is that of the namespace one writes from (namespaces(7)). */
static int make_user_namespace(uid_t owner)
{
	int ready[2], go[2], fd, pidfd = -1;
	char path[64], c = 0;

	if (pipe2(ready, O_CLOEXEC) || pipe2(go, O_CLOEXEC))
		die("cannot make a pipe");
	int root = open("/", O_PATH | O_DIRECTORY | O_CLOEXEC);

	leave_chroot();
	if (owner)
		own_as(owner);
	pid_t pid = clone_into(CLONE_NEWUSER, -1, &pidfd);
	int error = errno;

	if (owner && pid != 0)
		own_as(0);
	errno = error;
	if (pid < 0)
		die("cannot make a user namespace");
	if (pid > 0 && (fchdir(root) || chroot(".")) && errno != EPERM)
		die("cannot go back to the root directory");
	if (pid == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		close(ready[0]);
		close(go[1]);
		if (write(ready[1], &c, 1) != 1 || read(go[0], &c, 1) != 1)
			_exit(1);
		write_file("/proc/sys/user/max_user_namespaces", "0");
		if (write(ready[1], &c, 1) != 1 || read(go[0], &c, 1) != 1)
			_exit(1);
		_exit(0);
	}
	close(ready[1]);
	close(go[0]);
	if (read(ready[0], &c, 1) != 1)
		_exit(1);
	pid_t seen = proc_pid(pidfd);

	map_ids(seen, "uid_map");
	map_ids(seen, "gid_map");
	if (write(go[1], &c, 1) != 1 || read(ready[0], &c, 1) != 1)
		_exit(1);
	snprintf(path, sizeof path, "/proc/%d/ns/user", seen);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		die("cannot open '%s'", path);
	close(go[1]);
	close(ready[0]);
	waitpid(pid, NULL, 0);
	close(pidfd);
	return fd;
}

/* ---- the file system ---- */

static int clone_tree(const char *src)
{
	int fd = (int)syscall(SYS_open_tree, AT_FDCWD, src, OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC);

	if (fd < 0)
		die("cannot bind '%s'", src);
	return fd;
}

static void attach(int tree, const char *dst, unsigned long long attributes)
{
	struct mount_attr a = { .attr_set = attributes, .propagation = MS_PRIVATE };

	if (syscall(SYS_mount_setattr, tree, "", AT_EMPTY_PATH, &a, sizeof a))
		die("cannot protect '%s'", dst);
	if (syscall(SYS_move_mount, tree, "", AT_FDCWD, dst, MOVE_MOUNT_F_EMPTY_PATH))
		die("cannot mount '%s'", dst);
	close(tree);
}

static void make_parents(const char *path)
{
	char copy[4096];

	snprintf(copy, sizeof copy, "%s", path);
	for (char *s = copy + 1; *s; s++)
		if (*s == '/') {
			*s = 0;
			mkdir(copy, 0755);
			*s = '/';
		}
}

/* A place to mount `tree` on, of the same kind. */
static void make_place(int tree, const char *dst)
{
	struct stat st;

	make_parents(dst);
	if (fstat(tree, &st))
		die("cannot stat what goes to '%s'", dst);
	if (S_ISDIR(st.st_mode)) {
		if (mkdir(dst, 0755) && errno != EEXIST)
			die("cannot make '%s'", dst);
	} else {
		int fd = open(dst, O_WRONLY | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);

		if (fd < 0)
			die("cannot make '%s'", dst);
		close(fd);
	}
}

/* Sources are looked up before the new root is made: it hides what it is mounted on. */
static void build_root(struct step *steps, int n)
{
	static const unsigned long safe = MS_NOSUID | MS_NODEV;

	for (int i = 0; i < n; i++)
		if (strstr(steps[i].what, "bind") || !strcmp(steps[i].what, "dev"))
			steps[i].tree = clone_tree(steps[i].a);
	leave_chroot();
	if (mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL))
		die("cannot make mounts private");
	if (mount("jail", "/proc", "tmpfs", safe | MS_NOEXEC, "size=1M,mode=755") || chdir("/proc"))
		die("cannot make the jail's root");
	for (int i = 0; i < n; i++) {
		struct step *s = &steps[i];
		const char *dst = s->b ? s->b + 1 : s->a + 1; /* relative to the new root */

		if (!strcmp(s->what, "bind") || !strcmp(s->what, "ro-bind")) {
			make_place(s->tree, dst);
			attach(s->tree, dst, MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV |
			       (s->what[0] == 'r' ? MOUNT_ATTR_RDONLY : 0));
		} else if (!strcmp(s->what, "dev")) {
			/* Devices can be written to on a read-only mount; their modes and owners can't
			 * be changed there, which root of a lab of root's could else do. */
			make_place(s->tree, dst);
			attach(s->tree, dst, MOUNT_ATTR_NOSUID | MOUNT_ATTR_NOEXEC | MOUNT_ATTR_RDONLY);
		} else if (!strcmp(s->what, "tmpfs")) {
			dst = s->a + 1;
			make_parents(dst);
			mkdir(dst, 0755);
			if (mount("tmpfs", dst, "tmpfs", safe, s->b))
				die("cannot mount tmpfs on '%s'", dst);
		} else if (!strcmp(s->what, "symlink")) {
			make_parents(dst);
			if (symlink(s->a, dst))
				die("cannot link '%s'", dst);
		} else if (!strcmp(s->what, "dir")) {
			make_parents(dst);
			mkdir(dst, 0755);
		}
	}
	/* pivot_root(2), "pivot_root(".", ".")": the old root ends up under the new one, and goes. */
	if (syscall(SYS_pivot_root, ".", ".") || umount2(".", MNT_DETACH) || chdir("/"))
		die("cannot enter the jail");
	if (mount(NULL, "/", NULL, MS_REMOUNT | MS_BIND | MS_RDONLY | safe | MS_NOEXEC, NULL))
		die("cannot close the jail's root");
}

/* ---- privileges ---- */

/* Is the host's kernel of this release, or of a later one? */
static bool host_is(int major, int minor)
{
	struct utsname host;
	int has, and;

	return !uname(&host) && sscanf(host.release, "%d.%d", &has, &and) == 2 &&
	       (has > major || (has == major && and >= minor));
}

static void drop_capabilities(uid_t user)
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

/* ---- the three processes ---- */

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
static void set_limits(const struct order *o)
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

static void __attribute__((noreturn)) run_program(const struct order *o, int userns, int output, int go)
{
	char c;

	for (unsigned i = 0; i < o->holds; i++)
		close((int)(o->hold + i));
	/* A descriptor from outside would be of the host's mount, which is writable (see "dev"). */
	int null = open("/dev/null", O_RDWR | O_CLOEXEC);

	if (null < 0 || dup2(null, 0) < 0)
		die("cannot open '/dev/null'");
	if (dup2(output < 0 ? null : output, 1) < 0 || dup2(1, 2) < 0)
		die("cannot connect the output");
	if (setns(userns, CLONE_NEWUSER))
		die("cannot enter the user namespace");
	/* In a namespace that maps one id only, the kernel forbids setgroups: then there is none. */
	if (setgroups(o->group ? 1 : 0, &o->group) && errno != EPERM)
		die("cannot set groups");
	/* access(2) goes by the real user, and would clear the capabilities of one that is not root. */
	if (setresgid(0, 0, 0) || setresuid(o->user, 0, 0) ||
	    prctl(PR_SET_SECUREBITS, SECBIT_NO_SETUID_FIXUP, 0, 0, 0))
		die("cannot become root");
	drop_capabilities(o->user);
	set_limits(o);
	setsid();
	umask(0); /* the guest's kernel has applied that of its own process */
	personality(ADDR_NO_RANDOMIZE);
	if (read(go, &c, 1) != 1) /* the launcher died before it could say who we are */
		_exit(1);
	confine_to_own();
	filter_system_calls(o->passing);
	execv(o->argv[0], o->argv);
	die("cannot execute '%s'", o->argv[0]);
}

/* More than RLIMIT_NPROC, which does not bind a real user 0: since Linux 6.14 a pid namespace has a
 * limit of its own (before, this file is the whole host's). Pids below 300 are not used twice. */
static void limit_pids(rlim_t processes)
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

static void woken(int signal) { (void)signal; }

/* Reap what has ended; has `program`? */
static bool reap(pid_t program)
{
	bool over = false;

	for (pid_t pid; (pid = waitpid(-1, NULL, WNOHANG)) > 0;)
		over = over || pid == program;
	return over;
}

/* Keep the locks until the program has ended, and with it all that it started; write its log. */
static void __attribute__((noreturn)) keep(const struct order *o, pid_t program, int input)
{
	int kept = (int)(o->hold + o->holds);
	struct pollfd from = { input < 0 ? -1 : kept, POLLIN, 0 }; /* poll(2) passes over -1 */
	sigset_t child, before;

	if (input >= 0 && dup2(input, kept) < 0)
		die("cannot keep the output");
	if (o->hold)
		close_range(0, o->hold - 1, 0);
	close_range((unsigned)kept + (input >= 0), ~0U, 0);
	log_to(o->log);
	sigemptyset(&child);
	sigaddset(&child, SIGCHLD);
	sigprocmask(SIG_BLOCK, &child, &before);
	sigdelset(&before, SIGCHLD);
	signal(SIGCHLD, woken); /* it interrupts ppoll, and nothing else */
	while (!reap(program)) {
		if (ppoll(&from, 1, NULL, &before) <= 0)
			continue;
		if (log_some(kept) < 0)
			from.fd = -1;
		/* A kernel prints by lines, in a row: not each needs to wake us. An end does. */
		ppoll(NULL, 0, &(struct timespec){ 0, 500000 }, &before);
	}
	kill(-1, SIGKILL);
	while (waitpid(-1, NULL, 0) > 0)
		;
	while (from.fd >= 0 && log_some(kept) > 0)
		;
	_exit(0);
}

static void __attribute__((noreturn)) run_keeper(struct order *o, int userns, int report, int go)
{
	struct __user_cap_header_struct head = { _LINUX_CAPABILITY_VERSION_3, 0 };
	struct __user_cap_data_struct none[2] = { { 0, 0, 0 }, { 0, 0, 0 } };
	int pidfd = -1, output[2] = { -1, -1 };

	setsid();
	if (o->hostname && sethostname(o->hostname, strlen(o->hostname)))
		die("cannot set the host name");
	limit_pids(o->processes);
	build_root(o->steps, o->n);
	if (o->log >= 0 && (pipe2(output, O_CLOEXEC) || fcntl(output[0], F_SETFL, O_NONBLOCK)))
		die("cannot make a pipe");
	pid_t pid = clone_into(0, -1, &pidfd);

	if (pid < 0)
		die("cannot start a process");
	if (pid == 0) {
		close(report);
		run_program(o, userns, output[1], go);
	}
	send_fd(report, pidfd);
	prctl(PR_SET_DUMPABLE, 0, 0, 0, 0);
	if (syscall(SYS_capset, &head, none) || prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
		die("cannot drop capabilities");
	keep(o, pid, output[0]);
}

/* Have all that we start be in a control group: of version 1, where we go there ourselves, or of
 * version 2, whose descriptor the keeper's clone_into takes. In neither way is it "cgroup.procs",
 * for which the kernel waits until each of its processors has been idle or has switched tasks
 * (cgroup_threadgroup_rwsem, kernel/cgroup/cgroup.c): 10 ms. */
static int enter_cgroup(const char *directory)
{
	int dir = open(directory, O_PATH | O_DIRECTORY | O_CLOEXEC);

	if (dir < 0)
		die("cannot open '%s'", directory);
	int tasks = openat(dir, "tasks", O_WRONLY | O_CLOEXEC);

	if (tasks < 0)
		return dir;
	if (write(tasks, "0", 1) != 1)
		die("cannot enter '%s'", directory);
	close(tasks);
	close(dir);
	return -1;
}

int run_jail(int argc, char **argv)
{
	static struct order o;
	int go[2], report[2], keeper = -1;
	char c = 0;

	if (!parse(argc, argv, &o)) {
		fprintf(stderr, "usage: jail --pid-file FILE [STEP]... -- PROGRAM ARG...\n");
		return 2;
	}
	status_fd = o.errors;
	int cgroup = o.cgroup ? enter_cgroup(o.cgroup) : -1;

	if (fcntl(status_fd, F_SETFD, FD_CLOEXEC) ||
	    (o.turn >= 0 && fcntl(o.turn, F_SETFD, FD_CLOEXEC)) || pipe2(go, O_CLOEXEC) ||
	    socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, report))
		die("cannot make a pipe");
	int userns = make_user_namespace(o.user);
	pid_t pid = clone_into(CLONE_NEWPID | CLONE_NEWNS | CLONE_NEWIPC | CLONE_NEWUTS, cgroup,
			       &keeper);

	if (pid < 0)
		die("cannot make namespaces");
	if (pid == 0) {
		close(go[1]);
		close(report[0]);
		run_keeper(&o, userns, report[1], go[0]);
	}
	close(report[1]);
	int program = receive_fd(report[0]);

	if (program < 0) /* it has said why */
		_exit(1);
	write_pid(o.pid_file, program);
	if (write(go[1], &c, 1) != 1)
		die("cannot start the program");
	return 0;
}
