/* System calls, without a C library.
 *
 * Every guest keeps the agent in memory, and each system call costs a UML guest some 25 us: a static
 * C library would add 700 KiB and dozens of calls to each boot.
 */
#ifndef DUMM_SYS_H
#define DUMM_SYS_H

#if !defined(__x86_64__)
#error "the agent is written for x86-64, as are the guest kernels"
#endif

#include <asm/ioctls.h>
#include <asm/poll.h>
#include <asm/termbits.h>
#include <asm/unistd.h>
#include <linux/errno.h>
#include <linux/fcntl.h>
#include <linux/mman.h>
#include <linux/mount.h>
#include <linux/sched.h>
#include <linux/signal.h>
#include <linux/stat.h>
#include <linux/wait.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef uint8_t u8;
typedef uint16_t u16;
typedef uint32_t u32;
typedef uint64_t u64;

#ifdef OTHER_KERNEL /* tests/fuzz has one of its own */
long sys(long n, long a, long b, long c, long d, long e, long f);
long sys_spawn(void *stack_end, void (*run)(void *), void *with);
#else
static inline long sys(long n, long a, long b, long c, long d, long e, long f)
{
	register long r10 __asm__("r10") = d;
	register long r8 __asm__("r8") = e;
	register long r9 __asm__("r9") = f;
	long r;

	__asm__ volatile("syscall"
			 : "=a"(r)
			 : "a"(n), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
			 : "rcx", "r11", "memory");
	return r;
}

/* Call `run`, which must not return, in a process that shares our memory; return its pid. */
static inline long sys_spawn(void *stack_end, void (*run)(void *), void *with)
{
	register void *r12 __asm__("r12") = with;
	register long r10 __asm__("r10") = 0;
	register long r8 __asm__("r8") = 0;
	long r;

	__asm__ volatile("syscall\n\t"
			 "test %%rax, %%rax\n\t"
			 "jnz 1f\n\t"
			 "xor %%ebp, %%ebp\n\t"
			 "mov %%r12, %%rdi\n\t"
			 "call *%%rbx\n"
			 "1:"
			 : "=a"(r)
			 : "a"(__NR_clone), "D"(CLONE_VM | SIGCHLD), "S"(stack_end), "d"(0), "r"(r10),
			   "r"(r8), "b"(run), "r"(r12)
			 : "rcx", "r11", "memory");
	return r;
}
#endif

#define A(x) ((long)(x))
#define SYS0(n) sys(__NR_##n, 0, 0, 0, 0, 0, 0)
#define SYS1(n, a) sys(__NR_##n, A(a), 0, 0, 0, 0, 0)
#define SYS2(n, a, b) sys(__NR_##n, A(a), A(b), 0, 0, 0, 0)
#define SYS3(n, a, b, c) sys(__NR_##n, A(a), A(b), A(c), 0, 0, 0)
#define SYS4(n, a, b, c, d) sys(__NR_##n, A(a), A(b), A(c), A(d), 0, 0)
#define SYS5(n, a, b, c, d, e) sys(__NR_##n, A(a), A(b), A(c), A(d), A(e), 0)
#define SYS6(n, a, b, c, d, e, f) sys(__NR_##n, A(a), A(b), A(c), A(d), A(e), A(f))

/* All of these return the kernel's result: a negative errno on failure. */
static inline long sys_read(int fd, void *p, size_t n) { return SYS3(read, fd, p, n); }
static inline long sys_write(int fd, const void *p, size_t n) { return SYS3(write, fd, p, n); }
static inline long sys_openat(int dir, const char *path, int flags, int mode)
{
	return SYS4(openat, dir, path, flags, mode);
}
static inline long sys_open(const char *path, int flags)
{
	return sys_openat(AT_FDCWD, path, flags | O_CLOEXEC, 0);
}
static inline void sys_close(int *fd)
{
	if (*fd >= 0)
		SYS1(close, *fd);
	*fd = -1;
}
static inline long sys_mount(const char *src, const char *dst, const char *type, long flags,
			     const char *data)
{
	return SYS5(mount, src, dst, type, flags, data);
}
static inline long sys_mkdir(const char *path, int mode) { return SYS2(mkdir, path, mode); }
static inline long sys_kill(int pid, int sig) { return SYS2(kill, pid, sig); }
static inline __attribute__((noreturn)) void sys_exit(int code)
{
	for (;;)
		SYS1(exit_group, code);
}

#define MNT_DETACH 2 /* include/linux/fs.h: not in the uapi headers */

struct pollfd_ {
	int fd;
	short events, revents;
};

static inline long sys_poll(struct pollfd_ *p, u32 n, int ms) { return SYS3(poll, p, n, ms); }

#endif
