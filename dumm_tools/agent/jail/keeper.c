#include "keeper.h"
#include "again.h"
#include "bounds.h"
#include "ending.h"
#include "log.h"
#include "program.h"
#include "root.h"

#include <poll.h>

/* To the log of a kernel that is killed because the server of its files has ended: console_log.py. */
#define PEER_LOST "\n[the server of the root file system has ended]\n"
/* To that of one which is killed because it is stuck at its own end. */
#define STUCK "\n[the kernel did not come to its end]\n"

static void woken(int signal) { (void)signal; }

/* Reap exited children; return whether `program` was among them. */
static bool reap(pid_t program)
{
	bool over = false;

	for (pid_t pid; (pid = waitpid(-1, NULL, WNOHANG)) > 0;)
		over = over || pid == program;
	return over;
}

/* poll(2) with SIGCHLD, and for as long as the kernel's end may take; the number of descriptors. */
static int wait_for(struct pollfd *from, const sigset_t *signals)
{
	struct timespec limit = { ending_wait(), 0 };

	return ppoll(from, 2, limit.tv_sec < 0 ? NULL : &limit, signals);
}

/* Hold the locks until the program and everything that it started have ended; write its log. If the
 * jail that belongs with ours ends, end everything. */
static void __attribute__((noreturn)) keep(const struct order *o, pid_t program, int input)
{
	int kept = (int)(o->hold + o->holds);
	bool restarts = again_is_kept(o->argv);
	/* poll(2) ignores -1, and reports POLLHUP in any case. */
	struct pollfd from[] = { { input < 0 ? -1 : kept, POLLIN, 0 }, { o->peer, 0, 0 } };
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
		int ready = wait_for(from, &before);

		if (ending_is_stuck()) {
			log_text(STUCK);
			if (!ending_in_reboot())
				break;
			kill(program, AGAIN_STUCK);
		}
		if (ready <= 0)
			continue;
		if (from[1].revents)
			break;
		if (log_some(kept) < 0)
			from[0].fd = -1;
		if (o->role == CLIENT)
			ending_look(restarts);
		/* A kernel prints many lines in a row; not each of them has to wake us, but its end does. */
		ppoll(NULL, 0, &(struct timespec){ 0, 500000 }, &before);
	}
	kill(-1, SIGKILL);
	while (waitpid(-1, NULL, 0) > 0)
		;
	while (from[0].fd >= 0 && log_some(kept) > 0)
		;
	if (from[1].revents && o->role == CLIENT)
		log_text(PEER_LOST);
	_exit(0);
}

void run_keeper(struct order *o, int userns, int report, int go)
{
	int pidfd = -1, output[2] = { -1, -1 };

	setsid();
	if (o->hostname && sethostname(o->hostname, strlen(o->hostname)))
		die("cannot set the host name");
	limit_pids(o->processes);
	raise_limit_of_files(o->files);
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
	drop_all_but_killing();
	keep(o, pid, output[0]);
}
