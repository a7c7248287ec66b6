/* refuse PID CALL NTH: let the nth call of a system call that a process makes fail with EINVAL. Says `on`
 * when it is set up. */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ptrace.h>
#include <sys/user.h>
#include <sys/wait.h>

#define STOP (SIGTRAP | 0x80)

static pid_t pid;

/* Let it run to the next entry or return of a system call. */
static void next(struct user_regs_struct *regs)
{
	int status, number = 0;

	do {
		ptrace(PTRACE_SYSCALL, pid, 0, number == SIGTRAP ? 0 : number);
		if (waitpid(pid, &status, __WALL) < 0 || !WIFSTOPPED(status))
			exit(1);
		number = WSTOPSIG(status);
	} while (number != STOP);
	ptrace(PTRACE_GETREGS, pid, 0, regs);
}

int main(int argc, char **argv)
{
	struct user_regs_struct regs;
	int left = argc > 3 ? atoi(argv[3]) : 1;

	pid = atoi(argv[1]);
	if (ptrace(PTRACE_SEIZE, pid, 0, PTRACE_O_TRACESYSGOOD) || ptrace(PTRACE_INTERRUPT, pid, 0, 0) ||
	    waitpid(pid, NULL, __WALL) < 0)
		return perror("ptrace"), 1;
	puts("on");
	fflush(stdout);
	for (;;) {
		next(&regs);
		if (regs.orig_rax == (unsigned long)atol(argv[2]) && !--left)
			break;
		next(&regs);
	}
	regs.orig_rax = (unsigned long)-1;
	ptrace(PTRACE_SETREGS, pid, 0, &regs);
	next(&regs);
	regs.rax = (unsigned long)-EINVAL;
	ptrace(PTRACE_SETREGS, pid, 0, &regs);
	return ptrace(PTRACE_DETACH, pid, 0, 0) ? 1 : 0;
}
