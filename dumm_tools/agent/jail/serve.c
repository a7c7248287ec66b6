/* serve: run the server of a guest's files, anew for each boot of its kernel.
 *
 *   /serve FD PROGRAM ARG...
 *
 * FD is a listening socket, where kernels connect. The program, virtiofsd, gets another one as --fd: it
 * accepts one connection, and ends when that is closed. We pass on the messages between the two
 * (relay.c), and start it again when a kernel has closed its connection, as at a reboot. Connections
 * are queued in the meantime: a kernel never finds nobody listening. If the program ends by itself, or
 * closes its end of the connection, the guest's files are gone for good, and so we end, too; the keepers
 * of both jails then end the guest, and whatever is left here.
 *
 * This runs in the jail, confined like the program itself.
 */
#include "serve.h"
#include "base.h"
#include "relay.h"

#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>

#define PLACE "/tmp/socket"
/* A guest that reboots, or only connects, in a loop, should not keep the host busy with it. */
#define BRIEF 1		/* s */
#define PAUSE 100000000 /* ns */
/* For the program to end after its connection. It has nothing to do then. */
#define PATIENCE 5 /* s */

/* A listening socket for the program, and our connection to it. */
static int connect_to(int *listening)
{
	/* Always of full length: the filter permits no other. */
	struct sockaddr_un name = { .sun_family = AF_UNIX, .sun_path = PLACE };
	int near = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	*listening = socket(AF_UNIX, SOCK_STREAM, 0);
	unlink(PLACE);
	if (near < 0 || *listening < 0 || bind(*listening, (struct sockaddr *)&name, sizeof name) ||
	    listen(*listening, 1) || connect(near, (struct sockaddr *)&name, sizeof name))
		die("cannot make a socket");
	return near;
}

static pid_t start(char **argv, int listening)
{
	char *const environment[] = { NULL };
	char number[32], *words[64] = { argv[0], number };
	pid_t pid;

	snprintf(number, sizeof number, "--fd=%d", listening);
	for (int n = 2; argv[n - 1] && n < 63; n++)
		words[n] = argv[n - 1];
	pid = fork();
	if (pid == 0) {
		execve(argv[0], words, environment);
		die("cannot execute '%s'", argv[0]);
	}
	if (pid < 0)
		die("cannot start '%s'", argv[0]);
	return pid;
}

static void woken(int signal) { (void)signal; }

/* Wait for the program; false if it does not end in time. */
static bool ended(pid_t pid, int *status)
{
	time_t end = now() + PATIENCE;
	sigset_t child, before;
	pid_t found;

	sigemptyset(&child);
	sigaddset(&child, SIGCHLD);
	sigprocmask(SIG_BLOCK, &child, &before);
	while (!(found = waitpid(pid, status, WNOHANG)) && now() <= end)
		ppoll(NULL, 0, &(struct timespec){ 1, 0 }, &before);
	sigprocmask(SIG_SETMASK, &before, NULL);
	return found != 0;
}

/* End a program that no kernel is connected to. False if it is not ours to end: it is another user's. */
static bool end(pid_t pid, int *status)
{
	if (ended(pid, status))
		return true;
	return !syscall(SYS_tgkill, pid, pid, SIGKILL) && ended(pid, status);
}

static void __attribute__((noreturn)) lost(const char *program, bool over, int status)
{
	if (!over)
		fprintf(stderr, "%s did not end with its connection\n", program);
	else if (WIFSIGNALED(status))
		fprintf(stderr, "%s was ended by signal %d\n", program, WTERMSIG(status));
	else
		fprintf(stderr, "%s ended with status %d\n", program, WEXITSTATUS(status));
	_exit(1);
}

/* Close what we were started with, apart from `kernels`. */
static void close_others(int kernels)
{
	if (kernels < 3)
		_exit(2);
	if (kernels > 3)
		close_range(3, (unsigned)kernels - 1, 0);
	close_range((unsigned)kernels + 1, ~0U, 0);
	fcntl(kernels, F_SETFD, FD_CLOEXEC);
}

int run_serve(char **argv)
{
	int listening, status = 0, kernels = argv[0] && argv[1] ? atoi(argv[0]) : -1;

	close_others(kernels);
	signal(SIGCHLD, woken); /* it interrupts ppoll, and nothing else */
	for (;;) {
		time_t begin = now();
		int server = connect_to(&listening);
		pid_t pid = start(argv + 1, listening);

		close(listening);
		bool alive = relay(kernels, server);

		close(server);
		bool over = alive ? end(pid, &status) : ended(pid, &status);

		if (!alive || !over)
			lost(argv[1], over, status);
		if (now() - begin <= BRIEF)
			nanosleep(&(struct timespec){ 0, PAUSE }, NULL);
	}
}
