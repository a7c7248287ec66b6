/* The raw console. */
#include "console.h"
#include "child.h"

/* A login shell for input at the raw console, if the guest has no init of its own. */
void console_shell(void)
{
	static char *const argv[] = { "-sh", NULL };
	static char *const env[] = {
		"HOME=/root", "TERM=linux", "USER=root", "LOGNAME=root", "SHELL=/bin/sh",
		"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", NULL,
	};
	long pid = SYS0(fork);

	if (pid == 0) {
		SYS0(setsid);
		int fd = (int)sys_open("/dev/tty0", O_RDWR);

		SYS3(ioctl, fd, TIOCSCTTY, 1);
		for (int i = 0; i < 3; i++)
			SYS3(dup3, fd, i, 0);
		child_reset_signals();
		SYS1(chdir, "/root");
		SYS3(execve, "/bin/sh", argv, env);
		sys_exit(127);
	}
	agent.console_pid = pid > 0 ? (int)pid : 0;
}
