/* Which system calls the jail leaves its program (seccomp(2)), and whom they reach (landlock(7)).
 *
 * A list of what may be called, not of what may not: what a kernel of User Mode Linux asks of its
 * host (arch/um/os-Linux, the *_user.c of arch/um/drivers, fs/hostfs/hostfs_user.c), and the C
 * library below it. All else, and whatever later kernels add, is not there (ENOSYS): so a C
 * library falls back from what is new. The filter stays over fork and exec, and adds to those that
 * the program installs for its own children.
 *
 * What is decided by the number alone costs nothing: the host keeps a bitmap of those.
 */
#include "jail.h"

#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/if_tun.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/personality.h>
#include <sys/socket.h>

#ifndef __x86_64__
#error "the jail knows the system calls of x86-64 only"
#endif

static const unsigned short ALLOWED[] = {
	/* files that are open */
	SYS_read, SYS_write, SYS_readv, SYS_writev, SYS_pread64, SYS_pwrite64, SYS_preadv, SYS_pwritev,
	SYS_lseek, SYS_close, SYS_close_range, SYS_dup, SYS_dup2, SYS_dup3, SYS_fsync, SYS_fdatasync,
	SYS_ftruncate, SYS_fallocate, SYS_fadvise64, SYS_fstat, SYS_fstatfs, SYS_getdents,
	SYS_getdents64, SYS_fchdir, SYS_fchmod, SYS_fchown,
	/* files by name */
	SYS_open, SYS_openat, SYS_creat, SYS_access, SYS_faccessat, SYS_faccessat2, SYS_stat, SYS_lstat,
	SYS_newfstatat, SYS_statx, SYS_statfs, SYS_readlink, SYS_readlinkat, SYS_truncate, SYS_getcwd,
	SYS_chdir, SYS_mkdir, SYS_mkdirat, SYS_rmdir, SYS_unlink, SYS_unlinkat, SYS_rename,
	SYS_renameat, SYS_renameat2, SYS_link, SYS_linkat, SYS_symlink, SYS_symlinkat, SYS_mknod,
	SYS_mknodat, SYS_chmod, SYS_fchmodat, SYS_chown, SYS_lchown, SYS_fchownat, SYS_umask,
	SYS_utime, SYS_utimes, SYS_futimesat, SYS_utimensat,
	/* memory, all but mmap; by mremap a stack would grow beyond all limits */
	SYS_munmap, SYS_mprotect, SYS_madvise, SYS_msync, SYS_brk,
	/* waiting */
	SYS_poll, SYS_ppoll, SYS_select, SYS_pselect6, SYS_epoll_create, SYS_epoll_create1,
	SYS_epoll_ctl, SYS_epoll_wait, SYS_epoll_pwait, SYS_eventfd, SYS_eventfd2, SYS_signalfd,
	SYS_signalfd4, SYS_pipe, SYS_pipe2, SYS_futex, SYS_pause, SYS_sched_yield,
	/* signals and time */
	SYS_rt_sigaction, SYS_rt_sigprocmask, SYS_rt_sigreturn, SYS_rt_sigsuspend, SYS_rt_sigpending,
	SYS_rt_sigtimedwait, SYS_sigaltstack, SYS_kill, SYS_tkill, SYS_tgkill, SYS_restart_syscall,
	SYS_alarm, SYS_setitimer, SYS_getitimer, SYS_timer_create, SYS_timer_settime,
	SYS_timer_gettime, SYS_timer_getoverrun, SYS_timer_delete, SYS_nanosleep, SYS_clock_nanosleep,
	SYS_clock_gettime, SYS_clock_getres, SYS_gettimeofday, SYS_time, SYS_times,
	/* processes and threads, all but clone; each sees those of its own jail only */
	SYS_fork, SYS_vfork, SYS_execve, SYS_execveat, SYS_exit, SYS_exit_group, SYS_wait4, SYS_waitid,
	SYS_ptrace, SYS_arch_prctl, SYS_prctl, SYS_seccomp, SYS_set_tid_address, SYS_set_robust_list,
	SYS_get_robust_list, SYS_rseq, SYS_membarrier, SYS_sched_getaffinity, SYS_sched_setaffinity,
	SYS_getcpu, SYS_getrlimit, SYS_setrlimit, SYS_getrusage, SYS_modify_ldt, SYS_set_thread_area,
	SYS_get_thread_area,
	/* who and where one is */
	SYS_getpid, SYS_getppid, SYS_gettid, SYS_getpgrp, SYS_getpgid, SYS_getsid, SYS_setsid,
	SYS_setpgid, SYS_getuid, SYS_geteuid, SYS_getgid, SYS_getegid, SYS_getresuid, SYS_getresgid,
	SYS_getgroups, SYS_uname, SYS_sysinfo, SYS_getrandom,
	/* sockets, all but socket: the mconsole's, and pairs. None connects anywhere. */
	SYS_socketpair, SYS_bind, SYS_getsockname, SYS_setsockopt, SYS_getsockopt, SYS_shutdown,
	SYS_sendto, SYS_recvfrom, SYS_sendmsg, SYS_recvmsg, SYS_sendmmsg, SYS_recvmmsg,
};

/* Terminals, and taps that exist already. */
static const unsigned IOCTLS[] = {
	TCGETS, TCSETS, TCSETSW, TCSETSF, 0x802c542a /* TCGETS2 */, 0x402c542b, 0x402c542c, 0x402c542d,
	TIOCGPGRP, TIOCSPGRP, TIOCGWINSZ, FIONREAD, FIONBIO, FIOASYNC,
	TUNSETIFF, TUNGETIFF, TUNGETFEATURES, TUNSETOFFLOAD, TUNGETVNETHDRSZ, TUNSETVNETHDRSZ,
};

#define NAMESPACES                                                                            \
	(CLONE_NEWNS | CLONE_NEWCGROUP | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWUSER | CLONE_NEWPID | \
	 CLONE_NEWNET)

static struct sock_filter program[1024];
static unsigned short length;

static void emit(unsigned short code, unsigned k, unsigned char yes, unsigned char no)
{
	program[length++] = (struct sock_filter){ code, yes, no, k };
}

static void load(size_t offset)
{
	emit(BPF_LD | BPF_W | BPF_ABS, (unsigned)offset, 0, 0);
}

/* The half of an argument that the kernel looks at, where it takes an int (x86-64 is little-endian).
 * Flags that live above it do not exist in any of the calls below. */
static void load_argument(int n)
{
	load(offsetof(struct seccomp_data, args) + 8 * (size_t)n);
}

static void answer(unsigned action)
{
	emit(BPF_RET | BPF_K, action, 0, 0);
}

static void deny(int error)
{
	answer(SECCOMP_RET_ERRNO | (unsigned)error);
}

/* When the value loaded is (not) `k`, the next instruction is left out. */
static void skip_unless(unsigned k)
{
	emit(BPF_JMP | BPF_JEQ | BPF_K, k, 0, 1);
}

static void skip_if(unsigned k)
{
	emit(BPF_JMP | BPF_JEQ | BPF_K, k, 1, 0);
}

static void skip_unless_any(unsigned bits)
{
	emit(BPF_JMP | BPF_JSET | BPF_K, bits, 0, 1);
}

/* The rules of one call, between begin_call and end_call, must end in an answer. */
static unsigned short begin_call(int number)
{
	emit(BPF_JMP | BPF_JEQ | BPF_K, (unsigned)number, 1, 0);
	emit(BPF_JMP | BPF_JA, 0, 0, 0);
	return length;
}

static void end_call(unsigned short began)
{
	program[began - 1].k = (unsigned)(length - began);
}

static void build(void)
{
	unsigned short call;

	load(offsetof(struct seccomp_data, arch));
	skip_if(AUDIT_ARCH_X86_64);
	deny(ENOSYS);
	load(offsetof(struct seccomp_data, nr));
	for (size_t i = 0; i < sizeof ALLOWED / sizeof *ALLOWED; i++) {
		skip_unless(ALLOWED[i]);
		answer(SECCOMP_RET_ALLOW);
	}
	/* No memory that neither the size of /dev/shm nor RLIMIT_DATA counts: growing like a stack, or
	 * shared and without a file. UML 7 tries whether it can use seccomp in two such pages. */
	call = begin_call(SYS_mmap);
	load_argument(3);
	skip_unless_any(MAP_GROWSDOWN);
	deny(ENOMEM);
	emit(BPF_ALU | BPF_AND | BPF_K, MAP_SHARED | MAP_ANONYMOUS, 0, 0);
	skip_if(MAP_SHARED | MAP_ANONYMOUS); /* MAP_SHARED_VALIDATE has the bit of MAP_SHARED */
	answer(SECCOMP_RET_ALLOW);
	load_argument(1);
	emit(BPF_JMP | BPF_JGT | BPF_K, 8192, 0, 1);
	deny(ENOMEM);
	load(offsetof(struct seccomp_data, args) + 8 + 4); /* and of the length the upper half */
	skip_if(0);
	deny(ENOMEM);
	answer(SECCOMP_RET_ALLOW);
	end_call(call);

	call = begin_call(SYS_clone);
	load_argument(0);
	skip_unless_any(NAMESPACES);
	deny(EPERM);
	answer(SECCOMP_RET_ALLOW);
	end_call(call);

	call = begin_call(SYS_ioctl);
	load_argument(1);
	for (size_t i = 0; i < sizeof IOCTLS / sizeof *IOCTLS; i++) {
		skip_unless(IOCTLS[i]);
		answer(SECCOMP_RET_ALLOW);
	}
	deny(ENOTTY);
	end_call(call);

	/* No leases, which make the host wait, and no larger pipes. */
	call = begin_call(SYS_fcntl);
	load_argument(1);
	skip_unless(F_DUPFD_CLOEXEC);
	answer(SECCOMP_RET_ALLOW);
	emit(BPF_JMP | BPF_JGE | BPF_K, 1024 /* F_LINUX_SPECIFIC_BASE */, 0, 1);
	deny(EINVAL);
	answer(SECCOMP_RET_ALLOW);
	end_call(call);

	/* The mconsole is a datagram socket with a name; the network is reached by taps alone. */
	call = begin_call(SYS_socket);
	load_argument(0);
	skip_if(AF_UNIX);
	deny(EAFNOSUPPORT);
	load_argument(1);
	emit(BPF_ALU | BPF_AND | BPF_K, 0xf, 0, 0); /* SOCK_TYPE_MASK */
	skip_if(SOCK_DGRAM);
	deny(EAFNOSUPPORT);
	answer(SECCOMP_RET_ALLOW);
	end_call(call);

	/* UML looks whether its addresses are random. */
	call = begin_call(SYS_personality);
	load_argument(0);
	skip_unless(0xffffffff);
	answer(SECCOMP_RET_ALLOW);
	skip_unless(PER_LINUX | ADDR_NO_RANDOMIZE);
	answer(SECCOMP_RET_ALLOW);
	deny(EPERM);
	end_call(call);

	/* One's own limits. */
	call = begin_call(SYS_prlimit64);
	load_argument(0);
	skip_if(0);
	deny(EPERM);
	answer(SECCOMP_RET_ALLOW);
	end_call(call);

	deny(ENOSYS);
}

void filter_system_calls(void)
{
	struct sock_fprog all = { 0, program };

	build();
	all.len = length;
	if (syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &all))
		die("cannot filter system calls");
}

/* linux/landlock.h, as of Linux 6.12 */
struct ruleset {
	__u64 files, network, scoped;
};
#define SCOPE_ABSTRACT_SOCKETS 1
#define SCOPE_SIGNALS 2
#ifndef SYS_landlock_create_ruleset
#define SYS_landlock_create_ruleset 444
#define SYS_landlock_restrict_self 446
#endif

void confine_to_own(void)
{
	struct ruleset rules = { 0, 0, SCOPE_ABSTRACT_SOCKETS | SCOPE_SIGNALS };
	long fd = syscall(SYS_landlock_create_ruleset, &rules, sizeof rules, 0);

	if (fd < 0) /* the host's kernel has no Landlock, or an older one */
		return;
	if (syscall(SYS_landlock_restrict_self, fd, 0))
		die("cannot confine the program");
	close((int)fd);
}
