/* tick: keep the timer of a guest's kernel from ending it at a reboot.
 *
 * A kernel that reboots goes back to main() on the stack of its process, stops its timer there, and has what
 * it has held back by then take place before it executes itself anew (arch/um/os-Linux/main.c). On that
 * stack, kernels before Linux 6.13 have no task. A tick that comes after interrupts were turned off for the
 * last time would make them fail, with nobody left to tell: about one reboot in 600 on a busy host. It is
 * therefore put off until the timer is stopped, or the kernel has left that stack: it is there while it
 * starts, too.
 *
 * The kernel sets its handlers by sigaction(3), for which this stands in. As in listing.c, nothing here
 * depends on the C library. The structures are those of x86-64: of glibc's and musl's <signal.h>, and of
 * the kernel's asm/signal.h and asm-generic/siginfo.h.
 */
#include "../src/sys.h"

#include <asm/sigcontext.h>
#include <asm/siginfo.h>
#include <asm/ucontext.h>
#include <linux/time.h>

#define EXPORT __attribute__((visibility("default")))
#define LATER 1000000	     /* ns until a tick is tried again */
#define NEAR (1UL << 20)     /* bytes: all that the process' own functions use of its stack */

struct action { /* struct sigaction of a C library */
	void *handler;
	u64 mask, rest[15];
	int flags;
	void *restorer;
};

struct kernel_action { /* struct sigaction of the kernel */
	void *handler;
	u64 flags;
	void *restorer;
	u64 mask;
};

typedef void handler(int signal, siginfo_t *info, struct ucontext *context);

static handler *ticks; /* the handler for the kernel's timer; NULL: none */
static u64 stack;      /* an address on the stack of the process */

int *__errno_location(void); /* the C library's */
EXPORT int sigaction(int signal, const struct action *new, struct action *old);

/* The loader calls this before main(). */
static __attribute__((constructor)) void find_stack(void)
{
	stack = (u64)__builtin_frame_address(0);
}

/* Try again later. A timer that repeats goes on doing so. */
static void put_off(int timer)
{
	struct __kernel_itimerspec next;

	if (SYS2(timer_gettime, timer, &next))
		return;
	next.it_value.tv_sec = 0;
	next.it_value.tv_nsec = LATER;
	SYS4(timer_settime, timer, 0, &next, 0);
}

static void tick(int signal, siginfo_t *info, struct ucontext *context)
{
	u64 at = context->uc_mcontext.rsp;

	if (at - (stack - NEAR) >= 2 * NEAR)
		ticks(signal, info, context);
	else if (info->si_code == SI_TIMER)
		put_off(info->si_tid);
}

static __attribute__((naked)) void return_from_signal(void)
{
	__asm__("mov %0, %%eax\n\tsyscall" : : "i"(__NR_rt_sigreturn));
}

EXPORT int sigaction(int signal, const struct action *new, struct action *old)
{
	struct kernel_action next, before;
	void *handled = ticks;

	if (new) {
		next.handler = new->handler;
		next.flags = (u32)new->flags | SA_RESTORER;
		next.restorer = return_from_signal;
		next.mask = new->mask;
		if (signal == SIGALRM && new->flags & SA_SIGINFO) {
			ticks = (handler *)new->handler;
			next.handler = tick;
		}
	}
	long r = SYS4(rt_sigaction, signal, new ? &next : NULL, old ? &before : NULL, sizeof next.mask);

	if (r < 0) {
		ticks = handled;
		*__errno_location() = (int)-r;
		return -1;
	}
	if (old) {
		old->handler = before.handler == tick ? handled : before.handler;
		old->mask = before.mask;
		for (size_t i = 0; i < sizeof old->rest / sizeof *old->rest; i++)
			old->rest[i] = 0;
		old->flags = (int)before.flags;
		old->restorer = before.restorer;
	}
	return 0;
}
