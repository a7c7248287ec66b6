/* A kernel that knows only the first registers of this host, for tests/test_registers.py: with preload.so,
 * set them in a process, as kernels before Linux 6.13 do on hosts with AMX, and say what became of it. */
#define _GNU_SOURCE
#include <elf.h>
#include <err.h>
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#define XMM0 160	/* struct fxregs_state (asm/sigcontext.h) */
#define KNOWN (512 + 64) /* the legacy area and the header of XSAVE: x87 and SSE */

static volatile long word = -1;

static void child(void)
{
	char found[16];

	ptrace(PTRACE_TRACEME, 0, NULL, NULL);
	raise(SIGSTOP);
	/* The tracer sets xmm0 here: nothing may use it between the signal and this. */
	__asm__ volatile("mov %0, %%rax\n\tmov %1, %%rdi\n\tmov %2, %%rsi\n\tsyscall\n\t"
			 "movdqu %%xmm0, (%3)"
			 :
			 : "i"(62L) /* kill */, "r"((long)getpid()), "i"((long)SIGSTOP), "r"(found)
			 : "rax", "rdi", "rsi", "rcx", "r11", "memory");
	_exit(memcmp(found, "sixteen letters.", sizeof found) != 0);
}

static void next_stop(pid_t pid)
{
	int status;

	if (waitpid(pid, &status, 0) != pid || !WIFSTOPPED(status))
		errx(2, "it did not stop");
}

int main(void)
{
	static char registers[1 << 16] __attribute__((aligned(64)));
	struct iovec all = { registers, sizeof registers };
	pid_t pid = fork();
	int status;

	if (!pid)
		child();
	next_stop(pid);
	if (ptrace(PTRACE_CONT, pid, NULL, NULL))
		err(2, "PTRACE_CONT");
	next_stop(pid);
	for (int round = 0; round < 2; round++) {
		all.iov_len = sizeof registers;
		if (ptrace(PTRACE_GETREGSET, pid, (void *)NT_X86_XSTATE, &all))
			err(2, "PTRACE_GETREGSET");
		memcpy(registers + XMM0, round ? "sixteen letters." : "................", 16);
		registers[512] |= 2; /* SSE is in use */
		all.iov_len = KNOWN;
		long r = ptrace(PTRACE_SETREGSET, pid, (void *)NT_X86_XSTATE, &all);
		printf("set: %s\n", r ? strerror(errno) : "done");
	}
	errno = EIO;
	long r = ptrace(PTRACE_PEEKDATA, pid, (void *)&word, NULL);
	printf("peek: %ld %d\n", r, errno);
	r = ptrace(PTRACE_PEEKDATA, pid, NULL, NULL);
	printf("peek at nothing: %ld %s\n", r, strerror(errno));
	ptrace(PTRACE_CONT, pid, NULL, NULL);
	waitpid(pid, &status, 0);
	printf("xmm0 was %s\n", status ? "lost" : "set");
	r = ptrace(PTRACE_SETREGSET, pid, (void *)NT_X86_XSTATE, &all);
	printf("nobody: %ld %s\n", r, strerror(errno));
	return 0;
}
