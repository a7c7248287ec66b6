/* jail: run a program in namespaces and a file system of its own.
 *
 *   jail --errors FD --pid-file FILE [--turn FD] [--hold FIRST COUNT] [--log FD] [--group GID]
 *        [--user UID] [--data BYTES] [--processes N] [--files N] [--signals N] [--passing 0|1]
 *        [--cgroup DIRECTORY] [--hostname NAME]
 *        [--bind|--ro-bind|--dev SRC DST | --mount|--ro-mount FD DST | --tmpfs DST OPTIONS |
 *        --dir DST | --symlink TARGET DST]... -- PROGRAM ARG...
 *
 * The FD of --mount is a mount that is attached nowhere (open_tree(2), OPEN_TREE_CLONE).
 *
 * There are three processes. The caller starts the *launcher*. It creates the *keeper*, pid 1 of new
 * pid, mount, ipc and uts namespaces with an empty root that contains only what was named. The
 * keeper starts the *program* in a user namespace of its own that maps the ids one to one: it is
 * root there, owns none of the other namespaces, and cannot create any; it keeps only the
 * capabilities that hostfs needs (capabilities(7)), and the system calls in seccomp.c.
 *
 * Only the keeper has the COUNT descriptors from FIRST on, which are locks, so the program can neither
 * release nor touch them. It cannot reach the keeper either, which is in the parent user namespace.
 * The keeper writes the program's output to the log FD (log.c). When the program ends, the keeper
 * kills the processes left over and exits. Other descriptors that are not close-on-exec are inherited
 * by the program.
 *
 * With --user, the program has a real user id that nothing else uses, but is otherwise still root of
 * its user namespace. It then has its own share of everything that the host accounts per real user:
 * processes, and struct user_struct (linux/sched/user.h) with descriptors in messages that nobody has
 * received, files watched by epoll(7), and memory for pipes. Its user namespace belongs to that user
 * as well, so the other per-user counts of the host (ucounts) are its own, too, up to the user
 * namespace of the lab, if there is one: there they are added to those of its owner.
 *
 * The launcher writes the program's "PID STARTTIME" (proc_pid_stat(5), field 22) to FILE before the
 * program may start, and returns as soon as it has started. An error is one line on descriptor FD.
 * The lock of --turn is released as soon as the program runs: a process that waits for it then finds
 * either the FILE, or that there is no program.
 */
#include "jail.h"
#include "keeper.h"
#include "userns.h"

#include <sys/socket.h>

/* Put everything that we start into a control group: with version 1 by entering it ourselves, with
 * version 2 by its descriptor, for the keeper's clone_into. Neither writes to "cgroup.procs", for which
 * the kernel waits until each processor has been idle or has switched tasks
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

	if (program < 0) /* it has reported the error */
		_exit(1);
	/* The keeper may have ended the program already, if the jail that belongs with this one is gone: that
	 * is an end like those that come later. */
	signal(SIGPIPE, SIG_IGN);
	if (write_pid(o.pid_file, program) && write(go[1], &c, 1) != 1 && errno != EPIPE)
		die("cannot start the program");
	return 0;
}
