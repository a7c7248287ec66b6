/* jail: run a program in namespaces and a file system of its own.
 *
 *   jail --errors FD --pid-file FILE [--bind|--ro-bind|--dev SRC DST | --tmpfs DST OPTIONS | --dir DST |
 *        --symlink TARGET DST | --proc DST | --hostname NAME]... -- PROGRAM ARG...
 *
 * The program becomes pid 1 of new pid, mount, ipc and uts namespaces over an empty root with
 * just what was named, in a user namespace of its own that maps the ids one to one: it is
 * root there, owns no namespace that it sees, and can make no other. It keeps only what
 * hostfs needs (capabilities(7)). Descriptors that are not close-on-exec are handed on.
 *
 * The parent writes "PID STARTTIME" (proc_pid_stat(5), field 22) to FILE before the program may
 * start, and returns as soon as it has. What fails is one line on descriptor FD.
 */
#include "jail.h"

#include <grp.h>
#include <linux/capability.h>
#include <linux/mount.h>
#include <sys/personality.h>
#include <sys/resource.h>

#ifndef MOUNT_ATTR_RDONLY
#error "linux/mount.h is too old: Linux 5.12 headers or newer are needed"
#endif

/* What hostfs asks of the host for a guest whose root user is root: owners and modes. */
static const int KEPT[] = { CAP_CHOWN, CAP_DAC_OVERRIDE, CAP_FOWNER, CAP_FSETID };

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

/* A user namespace as a descriptor. A process that lives just for this makes it, and forbids
 * further ones: /proc/sys/user is that of the namespace one writes from (namespaces(7)). */
static int make_user_namespace(void)
{
	int ready[2], go[2], fd, pidfd = -1;
	char path[64], c = 0;

	if (pipe2(ready, O_CLOEXEC) || pipe2(go, O_CLOEXEC))
		die("cannot make a pipe");
	pid_t pid = clone_into(CLONE_NEWUSER, &pidfd);

	if (pid < 0)
		die("cannot make a user namespace");
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
	struct mount_attr a = { .attr_set = attributes };

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

struct step {
	const char *what, *a, *b;
	int tree;
};

/* Sources are looked up before the new root is made: it hides what it is mounted on. */
static void build_root(struct step *steps, int n)
{
	static const unsigned long safe = MS_NOSUID | MS_NODEV;

	if (mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL))
		die("cannot make mounts private");
	for (int i = 0; i < n; i++)
		if (strstr(steps[i].what, "bind") || !strcmp(steps[i].what, "dev"))
			steps[i].tree = clone_tree(steps[i].a);
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
			make_place(s->tree, dst);
			attach(s->tree, dst, MOUNT_ATTR_NOSUID | MOUNT_ATTR_NOEXEC);
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
		} else if (!strcmp(s->what, "proc")) {
			mkdir(dst, 0555);
			if (mount("proc", dst, "proc", safe | MS_NOEXEC | MS_RDONLY, NULL))
				die("cannot mount proc");
		}
	}
	/* pivot_root(2), "pivot_root(".", ".")": the old root ends up under the new one, and goes. */
	if (syscall(SYS_pivot_root, ".", ".") || umount2(".", MNT_DETACH) || chdir("/"))
		die("cannot enter the jail");
	if (mount(NULL, "/", NULL, MS_REMOUNT | MS_BIND | MS_RDONLY | safe | MS_NOEXEC, NULL))
		die("cannot close the jail's root");
}

/* ---- privileges ---- */

static void drop_capabilities(void)
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
	if (syscall(SYS_capset, &head, data))
		die("cannot drop capabilities");
	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
		die("cannot forbid new privileges");
}

static void __attribute__((noreturn)) inside(struct step *steps, int n, int userns, int go,
					     const char *hostname, char **argv)
{
	struct rlimit no_core = { 0, 0 };
	char c;

	if (read(go, &c, 1) != 1) /* our parent died before it could say who we are */
		_exit(1);
	if (hostname && sethostname(hostname, strlen(hostname)))
		die("cannot set the host name");
	build_root(steps, n);
	if (setns(userns, CLONE_NEWUSER))
		die("cannot enter the user namespace");
	/* In a namespace that maps one id only, the kernel forbids setgroups: then there is none. */
	if (setgroups(0, NULL) && errno != EPERM)
		die("cannot drop groups");
	if (setresgid(0, 0, 0) || setresuid(0, 0, 0))
		die("cannot become root");
	drop_capabilities();
	setrlimit(RLIMIT_CORE, &no_core);
	setsid();
	personality(ADDR_NO_RANDOMIZE);
	execv(argv[0], argv);
	die("cannot execute '%s'", argv[0]);
}

int run_jail(int argc, char **argv)
{
	static struct step steps[1024];
	const char *pid_file = NULL, *hostname = NULL;
	int n = 0, i = 1, go[2];
	char c = 0;

	for (; i < argc && strcmp(argv[i], "--"); i++) {
		const char *what = argv[i] + 2;
		bool two = strstr(what, "bind") || !strcmp(what, "dev") ||
			   !strcmp(what, "tmpfs") || !strcmp(what, "symlink");

		if (strncmp(argv[i], "--", 2) || i + 1 + two >= argc || n == 1024) {
			fprintf(stderr, "bad argument '%s'\n", argv[i]);
			return 2;
		}
		if (!strcmp(what, "pid-file"))
			pid_file = argv[++i];
		else if (!strcmp(what, "errors"))
			status_fd = atoi(argv[++i]);
		else if (!strcmp(what, "hostname"))
			hostname = argv[++i];
		else {
			steps[n].what = what;
			steps[n].a = argv[++i];
			if (two)
				steps[n].b = argv[++i];
			n++;
		}
	}
	if (!pid_file || i + 1 >= argc) {
		fprintf(stderr, "usage: jail --pid-file FILE [STEP]... -- PROGRAM ARG...\n");
		return 2;
	}
	argv += i + 1;
	if (fcntl(status_fd, F_SETFD, FD_CLOEXEC) || pipe2(go, O_CLOEXEC))
		die("cannot make a pipe");
	int userns = make_user_namespace();
	int pidfd = -1;
	pid_t pid = clone_into(CLONE_NEWPID | CLONE_NEWNS | CLONE_NEWIPC | CLONE_NEWUTS, &pidfd);

	if (pid < 0)
		die("cannot make namespaces");
	if (pid == 0) {
		close(go[1]);
		inside(steps, n, userns, go[0], hostname, argv);
	}
	write_pid(pid_file, pidfd);
	if (write(go[1], &c, 1) != 1)
		die("cannot start the program");
	return 0;
}
