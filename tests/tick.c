/* Ticks of a timer on the stack of the process, for tests/test_tick.py.
 *
 *   tick        with preload.so: say where the handler was called for a timer's signal
 *   tick PID    raise a guest kernel's timer signal when it has all but ended to reboot
 */
#define _GNU_SOURCE
#include <err.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <time.h>
#include <ucontext.h>
#include <unistd.h>

static volatile sig_atomic_t ticks;
static timer_t timer;
static ucontext_t start, elsewhere;

static void count(int signal, siginfo_t *info, void *context)
{
	(void)signal, (void)info, (void)context;
	ticks++;
}

static void arm(long first_ms, long interval_ms)
{
	struct itimerspec when = { { 0, interval_ms * 1000000 }, { 0, first_ms * 1000000 } };

	if (timer_settime(timer, 0, &when, NULL))
		err(1, "timer_settime");
}

/* Sleep, however often a signal comes. */
static void pass(long ms)
{
	struct timespec left = { 0, ms * 1000000 };

	while (nanosleep(&left, &left))
		;
}

static void on_another_stack(void)
{
	while (!ticks)
		pass(1);
}

static void own(void)
{
	static char stack[1 << 16];
	struct sigaction action, old;
	struct itimerspec left;

	memset(&action, 0, sizeof action);
	action.sa_sigaction = count;
	action.sa_flags = SA_SIGINFO | SA_ONSTACK;
	sigaddset(&action.sa_mask, SIGUSR1);
	if (sigaction(SIGALRM, &action, NULL) || sigaction(SIGALRM, NULL, &old))
		err(1, "sigaction");
	printf("handler: %s\n", old.sa_sigaction == count ? "ours" : "another");
	printf("mask: %d %d\n", sigismember(&old.sa_mask, SIGUSR1), sigismember(&old.sa_mask, SIGUSR2));
	printf("invalid: %d\n", sigaction(SIGKILL, &action, NULL));
	if (timer_create(CLOCK_MONOTONIC, NULL, &timer))
		err(1, "timer_create");
	getcontext(&elsewhere);
	for (int round = 0; round < 2; round++) {
		ticks = 0;
		arm(1, round ? 2 : 0);
		pass(50);
		printf("%s: %d on the first stack\n", round ? "repeated" : "once", (int)ticks);
		elsewhere.uc_stack.ss_sp = stack;
		elsewhere.uc_stack.ss_size = sizeof stack;
		elsewhere.uc_link = &start;
		makecontext(&elsewhere, on_another_stack, 0);
		swapcontext(&start, &elsewhere);
		printf("%s: on another\n", round ? "repeated" : "once");
	}
	printf("repeats: %d\n", !timer_gettime(timer, &left) && left.it_interval.tv_nsec == 2000000);
	arm(0, 0);
	action.sa_flags = 0;
	action.sa_handler = SIG_IGN;
	printf("ignored: %d %d\n", sigaction(SIGALRM, &action, NULL), raise(SIGALRM));
}

/* Whether a system call is that by which a kernel ignores SIGIO on its way out (os_set_ioignore,
 * arch/um/os-Linux/irq.c): interrupts are off, and its timer is stopped. */
static bool is_on_its_way_out(pid_t pid)
{
	struct user_regs_struct r;

	return !ptrace(PTRACE_GETREGS, pid, 0, &r) && r.orig_rax == SYS_rt_sigaction &&
	       r.rdi == SIGIO && r.rsi && ptrace(PTRACE_PEEKDATA, pid, r.rsi, 0) == (long)SIG_IGN;
}

static void disturb(pid_t pid)
{
	int status, signal = 0;

	if (ptrace(PTRACE_SEIZE, pid, 0, PTRACE_O_TRACESYSGOOD) || ptrace(PTRACE_INTERRUPT, pid, 0, 0))
		err(1, "ptrace");
	for (bool first = true; waitpid(pid, &status, 0) == pid; first = false) {
		if (!WIFSTOPPED(status))
			errx(1, "it has ended: %x", status);
		if (first) {
			puts("ready");
			fflush(stdout);
		}
		signal = WSTOPSIG(status);
		if (signal == (SIGTRAP | 0x80) && is_on_its_way_out(pid)) {
			kill(pid, SIGALRM);
			ptrace(PTRACE_DETACH, pid, 0, 0);
			puts("raised");
			return;
		}
		if (signal == (SIGTRAP | 0x80) || status >> 16)
			signal = 0;
		ptrace(PTRACE_SYSCALL, pid, 0, signal);
	}
	errx(1, "it has ended");
}

int main(int argc, char **argv)
{
	if (argc > 1)
		disturb(atoi(argv[1]));
	else
		own();
	return 0;
}
