/* hold: keep a lab's namespaces.
 *
 *   hold --errors FD --pid-file FILE (--map UIDS GIDS | --helpers UIDS GIDS)
 *
 * UIDS and GIDS are lines for uid_map (user_namespaces(7)); with --helpers, newuidmap and newgidmap
 * write them. The holder is pid 1 of the lab's pid namespace: when it ends, every guest, tap, bridge
 * and mount of the lab disappears. Commands enter its namespaces. It reaps orphans and does nothing
 * else. A lock on an inherited descriptor is held until it ends.
 */
#include "hold.h"
#include "base.h"

#include <linux/mount.h>
#include <net/if.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

static void write_maps(pid_t pid, const char *uids, const char *gids)
{
	char path[64];

	snprintf(path, sizeof path, "/proc/%d/uid_map", pid);
	write_file(path, uids);
	if (geteuid()) { /* an ordinary user may map its own group only if setgroups(2) is denied */
		snprintf(path, sizeof path, "/proc/%d/setgroups", pid);
		write_file(path, "deny");
	}
	snprintf(path, sizeof path, "/proc/%d/gid_map", pid);
	write_file(path, gids);
}

static void run_helper(const char *program, pid_t pid, const char *map)
{
	char copy[4096], number[16], *argv[64] = { (char *)program, number };
	int n = 2, status;

	snprintf(copy, sizeof copy, "%s", map);
	snprintf(number, sizeof number, "%d", pid);
	for (char *word = strtok(copy, " \n"); word && n < 63; word = strtok(NULL, " \n"))
		argv[n++] = word;
	pid_t child = fork();

	if (child == 0) {
		execvp(program, argv);
		_exit(127);
	}
	if (child < 0 || waitpid(child, &status, 0) < 0 || status) {
		errno = EPERM;
		die("%s failed", program);
	}
}

static void loopback_up(void)
{
	struct ifreq r = { .ifr_name = "lo" };
	int s = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);

	if (s < 0 || ioctl(s, SIOCGIFFLAGS, &r))
		die("cannot find the loopback device");
	r.ifr_flags |= IFF_UP;
	if (ioctl(s, SIOCSIFFLAGS, &r))
		die("cannot bring the loopback device up");
	close(s);
}

static void __attribute__((noreturn)) hold(int go, int ready)
{
	sigset_t all;
	char c;

	if (read(go, &c, 1) != 1)
		_exit(1);
	if (setresgid(0, 0, 0) || setresuid(0, 0, 0))
		die("cannot become root of the user namespace");
	if (mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL))
		die("cannot make mounts private");
	/* /sys shows the network namespace that it was mounted in (sysfs(5)). */
	int cgroups = (int)syscall(SYS_open_tree, AT_FDCWD, "/sys/fs/cgroup",
				   OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_RECURSIVE);

	if (mount("sysfs", "/sys", "sysfs", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL))
		die("cannot mount /sys");
	/* Root limits the memory of guests there; a host may have no control groups. */
	if (cgroups >= 0) {
		syscall(SYS_move_mount, cgroups, "", AT_FDCWD, "/sys/fs/cgroup", MOVE_MOUNT_F_EMPTY_PATH);
		close(cgroups);
	}
	loopback_up();
	setsid();
	sigfillset(&all);
	sigprocmask(SIG_BLOCK, &all, NULL);
	/* Processes of the lab's user must be able to open our namespaces (ptrace(2), access mode). */
	prctl(PR_SET_DUMPABLE, 1, 0, 0, 0);
	/* Commands enter as soon as our pid is written: everything must be in place by then. */
	if (write(ready, &c, 1) != 1 || read(go, &c, 1) != 1)
		_exit(1);
	close_range(3, ~0U, 0); /* including status_fd: everything is set up */
	for (;;) {
		while (waitpid(-1, NULL, WNOHANG) > 0)
			;
		sigwaitinfo(&all, NULL);
	}
}

int run_hold(int argc, char **argv)
{
	const char *pid_file = NULL, *uids = NULL, *gids = NULL;
	bool helpers = false;
	int go[2], ready[2], pidfd = -1;
	char c = 0;

	for (int i = 1; i + 1 < argc; i++) {
		if (!strcmp(argv[i], "--errors"))
			status_fd = atoi(argv[++i]);
		else if (!strcmp(argv[i], "--pid-file"))
			pid_file = argv[++i];
		else if (i + 2 < argc) {
			helpers = !strcmp(argv[i], "--helpers");
			uids = argv[++i];
			gids = argv[++i];
		}
	}
	if (!pid_file || !uids) {
		fprintf(stderr, "usage: hold --errors FD --pid-file FILE --map UIDS GIDS\n");
		return 2;
	}
	if (fcntl(status_fd, F_SETFD, FD_CLOEXEC) || pipe2(go, O_CLOEXEC) || pipe2(ready, O_CLOEXEC))
		die("cannot make a pipe");
	pid_t pid = clone_into(CLONE_NEWUSER | CLONE_NEWNS | CLONE_NEWNET | CLONE_NEWPID | CLONE_NEWIPC |
				       CLONE_NEWUTS,
			       -1, &pidfd);

	if (pid < 0)
		die("cannot make namespaces");
	if (pid == 0) {
		close(go[1]);
		hold(go[0], ready[1]);
	}
	close(ready[1]);
	pid_t seen = proc_pid(pidfd);

	if (helpers) {
		run_helper("newuidmap", seen, uids);
		run_helper("newgidmap", seen, gids);
	} else {
		write_maps(seen, uids, gids);
	}
	if (write(go[1], &c, 1) != 1 || read(ready[0], &c, 1) != 1)
		return 1; /* it has reported the error */
	if (!write_pid(pid_file, pidfd) || write(go[1], &c, 1) != 1)
		die("cannot start the holder");
	return 0;
}
