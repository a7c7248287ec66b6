/* again: execute a guest's kernel anew when it has panicked, if its arguments ask for that.
 *
 * UML ends by abort(3) in a panic (os_dump_core, arch/um/os-Linux/util.c), before the generic code would
 * reboot. With panic=N, the guest's process is therefore not the kernel but its parent, this program. A
 * reboot of the kernel, which executes /boot in its own process, then ends that process, so that there is
 * one way to start a kernel. All of this runs in the jail: see boot.c.
 */
#include "again.h"
#include "base.h"

#include <time.h>

#define KEPT "DUMM_KEPT"
#define REBOOTS 77 /* no exit status of UML */

void again_if_kept(void)
{
	if (getenv(KEPT) && getpid() != 1)
		_exit(REBOOTS);
}

int again_after(char **argv)
{
	int seconds = 0;

	for (; *argv; argv++)
		if (!strncmp(*argv, "panic=", 6))
			seconds = atoi(*argv + 6);
	return seconds;
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

void again(char **argv, int seconds, void (*execute)(char **argv))
{
	struct timespec pause = { seconds < 0 ? 0 : seconds, 0 };
	int status;

	if (setenv(KEPT, "1", 1))
		die("cannot allocate memory");
	for (;;) {
		pid_t pid = fork();

		if (pid < 0)
			die("cannot start a process");
		if (pid == 0) {
			setsid(); /* in a panic, UML ends its process group */
			execute(argv);
		}
		while (waitpid(pid, &status, 0) != pid)
			;
		end_others();
		if (WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT) {
			report(seconds);
			nanosleep(&pause, NULL);
		} else if (!WIFEXITED(status) || WEXITSTATUS(status) != REBOOTS) {
			_exit(WIFEXITED(status) ? WEXITSTATUS(status) : 1);
		}
	}
}
