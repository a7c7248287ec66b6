/* again: execute a guest's kernel anew when it has panicked, or is stuck at a reboot, if its arguments ask
 * for that.
 *
 * UML ends by abort(3) in a panic (os_dump_core, arch/um/os-Linux/util.c), before the generic code would
 * reboot; and some kernels can get stuck at a reboot (ending.c). With panic=N and for those kernels, the
 * guest's process is therefore not the kernel but its parent, this program. A reboot of the kernel, which
 * executes /boot in its own process, then ends that process, so that there is one way to start a kernel.
 * All of this runs in the jail: see boot.c.
 */
#include "again.h"
#include "base.h"


#define KEPT "DUMM_KEPT"
#define REBOOTS 77 /* no exit status of UML */

void again_if_kept(void)
{
	if (getenv(KEPT) && getpid() != 1)
		_exit(REBOOTS);
}

/* The seconds until a kernel that has panicked reboots, as `panic=` says; negative: at once; 0: never. */
static int after_panic(char **argv)
{
	int seconds = 0;

	for (; *argv; argv++)
		if (!strncmp(*argv, "panic=", 6))
			seconds = atoi(*argv + 6);
	return seconds;
}

bool again_is_kept(char **argv)
{
	while (*argv && strncmp(*argv, AGAIN_KEEP, strlen(AGAIN_KEEP)))
		argv++;
	return *argv;
}

static pid_t kernel;
static volatile sig_atomic_t stuck;

static void is_stuck(int signal)
{
	(void)signal;
	stuck = true;
	kill(kernel, SIGKILL);
}

/* End the other processes of a kernel that has ended. We are not pid 1 of the jail, which is spared. */
static void end_others(void)
{
	if (getppid() == 1) {
		kill(-1, SIGKILL);
		while (waitpid(-1, NULL, 0) > 0)
			;
	}
}

/* The guest is not ready any more, and its kernel will not say so. */
static void report(int seconds)
{
	truncate("/run/uml/ready", 0);
	printf("dumm: the kernel has panicked, and reboots in %d s\n", seconds < 0 ? 0 : seconds);
	fflush(stdout);
}

static bool has_panicked(int status)
{
	return WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT;
}

void again(char **argv, void (*execute)(char **argv))
{
	int seconds = after_panic(argv), status;
	struct timespec pause = { seconds < 0 ? 0 : seconds, 0 };

	if (!seconds && !again_is_kept(argv))
		return;
	if (setenv(KEPT, "1", 1))
		die("cannot allocate memory");
	for (;;) {
		stuck = false;
		kernel = fork();
		if (kernel < 0)
			die("cannot start a process");
		if (kernel == 0) {
			setsid(); /* in a panic, UML ends its process group */
			execute(argv);
		}
		signal(AGAIN_STUCK, is_stuck);
		while (waitpid(kernel, &status, 0) != kernel)
			;
		signal(AGAIN_STUCK, SIG_IGN);
		end_others();
		if (seconds && has_panicked(status)) {
			report(seconds);
			nanosleep(&pause, NULL);
		} else if (!stuck && (!WIFEXITED(status) || WEXITSTATUS(status) != REBOOTS)) {
			_exit(WIFEXITED(status) ? WEXITSTATUS(status) : 1);
		}
	}
}
