/* The system calls that the jail permits (seccomp(2)).
 *
 * This is an allow list: the calls made by a User Mode Linux kernel (arch/um/os-Linux, the *_user.c of
 * arch/um/drivers, fs/hostfs/hostfs_user.c) and by the C library underneath. All other calls,
 * including those that later kernels add, fail with ENOSYS, so that a C library falls back to older
 * ones. The filter survives fork and exec, and is combined with those that the program installs for
 * its own children.
 *
 * For calls that create or change something, the arguments are restricted as well, to those that UML
 * 6.1, 6.12 and 7.2 pass.
 *
 * Calls that are decided by their number alone cost nothing, as the host keeps a bitmap of them. The
 * others come first in the filter.
 */
#include "seccomp.h"
#include "filter.h"
#include "rules.h"
#include "server.h"

#include <asm/prctl.h>
#include <linux/if_tun.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/personality.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <time.h>

#ifndef __x86_64__
#error "the jail knows the system calls of x86-64 only"
#endif

static const unsigned short ALLOWED[] = {
	/* open files */
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
	/* memory, except mmap and madvise; with mremap, a stack could grow beyond all limits */
	SYS_munmap, SYS_mprotect, SYS_msync, SYS_brk,
	/* waiting; UML's own pipes are pairs of sockets */
	SYS_poll, SYS_ppoll, SYS_select, SYS_pselect6, SYS_epoll_create, SYS_epoll_create1,
	SYS_epoll_ctl, SYS_epoll_wait, SYS_epoll_pwait, SYS_eventfd2, SYS_signalfd4, SYS_futex,
	SYS_pause, SYS_sched_yield,
	/* signals and time, except kill and timer_create */
	SYS_rt_sigaction, SYS_rt_sigprocmask, SYS_rt_sigreturn, SYS_rt_sigsuspend, SYS_rt_sigpending,
	SYS_rt_sigtimedwait, SYS_sigaltstack, SYS_tkill, SYS_tgkill, SYS_restart_syscall, SYS_alarm,
	SYS_setitimer, SYS_getitimer, SYS_timer_settime, SYS_timer_gettime, SYS_timer_getoverrun,
	SYS_timer_delete, SYS_nanosleep, SYS_clock_nanosleep, SYS_clock_gettime, SYS_clock_getres,
	SYS_gettimeofday, SYS_time, SYS_times,
	/* processes and threads, except clone, ptrace, prctl, arch_prctl and seccomp; each sees those
	 * of its own jail only */
	SYS_fork, SYS_vfork, SYS_execve, SYS_execveat, SYS_exit, SYS_exit_group, SYS_wait4, SYS_waitid,
	SYS_set_tid_address, SYS_set_robust_list, SYS_get_robust_list, SYS_rseq, SYS_membarrier,
	SYS_sched_getaffinity, SYS_getcpu, SYS_getrlimit, SYS_setrlimit, SYS_getrusage, SYS_modify_ldt,
	SYS_set_thread_area, SYS_get_thread_area,
	/* identity and environment */
	SYS_getpid, SYS_getppid, SYS_gettid, SYS_getpgrp, SYS_getpgid, SYS_getsid, SYS_setsid,
	SYS_setpgid, SYS_getuid, SYS_geteuid, SYS_getgid, SYS_getegid, SYS_getresuid, SYS_getresgid,
	SYS_getgroups, SYS_uname, SYS_sysinfo, SYS_getrandom,
	/* open sockets: the mconsole's, and pairs. None of them connects to anything. */
	SYS_shutdown, SYS_sendto, SYS_recvfrom,
};

/* Descriptors in messages: kernels since Linux 6.16 pass them to their processes with seccomp=on, and
 * clients pass their memory to the server; no others need them. Those that nobody has received are counted per user (unix(7), ETOOMANYREFS). */
static const unsigned short PASSING[] = { SYS_sendmsg, SYS_recvmsg };

/* Terminals and existing taps. */
static const unsigned IOCTLS[] = {
	TCGETS, TCSETS, TCSETSW, TCSETSF, 0x802c542a /* TCGETS2 */, 0x402c542b, 0x402c542c, 0x402c542d,
	TIOCGPGRP, TIOCSPGRP, TIOCGWINSZ, FIONREAD, FIONBIO, FIOASYNC,
	TUNSETIFF, TUNGETIFF, TUNGETFEATURES, TUNSETOFFLOAD, TUNGETVNETHDRSZ, TUNSETVNETHDRSZ,
};

static const unsigned ADVICE[] = { MADV_DONTNEED, MADV_REMOVE, MADV_DONTFORK, MADV_DONTDUMP };

/* Signals that may be sent to whole processes: each of them can be pending in each process, and the
 * pending ones of all guests of a user are added up (sigqueue(3)). */
static const unsigned SIGNALS[] = { 0, SIGINT, SIGABRT, SIGKILL, SIGUSR1, SIGALRM, SIGTERM, SIGCONT,
				    SIGSTOP };

/* Requests of a tracer whose child asked to be traced; attaching is not possible. */
static const unsigned TRACING[] = {
	PTRACE_TRACEME, PTRACE_PEEKUSER, PTRACE_POKEUSER, PTRACE_CONT, PTRACE_KILL,
	PTRACE_SINGLESTEP, PTRACE_GETREGS, PTRACE_SETREGS, PTRACE_GETFPREGS, PTRACE_SETFPREGS,
	18 /* PTRACE_GETFPXREGS */, 19, 21 /* PTRACE_OLDSETOPTIONS */, PTRACE_SYSCALL,
	25 /* PTRACE_GET_THREAD_AREA */, 26, 30 /* PTRACE_ARCH_PRCTL */, 31 /* PTRACE_SYSEMU */,
	32 /* PTRACE_SYSEMU_SINGLESTEP */, PTRACE_SETOPTIONS, PTRACE_GETSIGINFO, PTRACE_GETREGSET,
	PTRACE_SETREGSET,
};

static const unsigned PROCESS_OPTIONS[] = { PR_SET_PDEATHSIG, PR_SET_NAME, PR_GET_NAME,
					    PR_SET_NO_NEW_PRIVS, PR_GET_NO_NEW_PRIVS };

static const unsigned SEGMENTS[] = { ARCH_SET_GS, ARCH_SET_FS, ARCH_GET_FS, ARCH_GET_GS };

/* No leases, which make the host wait, no larger pipes, and no waiting for locks. */
static const unsigned DESCRIPTORS[] = { F_DUPFD, F_GETFD, F_SETFD, F_GETFL, F_SETFL, F_GETLK, F_SETLK,
					F_SETOWN, F_GETOWN, F_DUPFD_CLOEXEC };

static void rule_fcntl(void)
{
	unsigned short call = begin_call(SYS_fcntl);

	load_argument(1);
	for (size_t i = 0; i < sizeof DESCRIPTORS / sizeof *DESCRIPTORS; i++) {
		skip_unless(DESCRIPTORS[i]);
		answer(SECCOMP_RET_ALLOW);
	}
	skip_if(F_SETSIG);
	deny(EINVAL);
	need_argument(2, 0, SIGIO, EINVAL);
	answer(SECCOMP_RET_ALLOW);
	end_call(call);
}

/* The mconsole is a datagram socket with a name; the network is reached through taps only. Its name is
 * that of a file: UML always passes the maximum length, and the kernel takes the name up to the first
 * zero. Abstract names belong to the network namespace; they are as long as the length says, and a
 * socket bound without a name gets an abstract one. A client also connects to the socket of its server,
 * the only other one in its jail. */
static void rule_sockets(bool connecting)
{
	const unsigned ignored = SOCK_CLOEXEC | SOCK_NONBLOCK;
	unsigned short call = begin_call(SYS_socket);

	need_argument(0, 0, AF_UNIX, EAFNOSUPPORT);
	need_argument(2, 0, 0, EAFNOSUPPORT);
	load_argument(1);
	mask(~ignored);
	if (connecting) {
		skip_unless(SOCK_STREAM);
		answer(SECCOMP_RET_ALLOW);
	}
	skip_if(SOCK_DGRAM);
	deny(EAFNOSUPPORT);
	answer(SECCOMP_RET_ALLOW);
	end_call(call);

	call = begin_call(SYS_socketpair);
	need_argument(0, 0, AF_UNIX, EAFNOSUPPORT);
	need_argument(1, ignored, SOCK_STREAM, EAFNOSUPPORT);
	need_argument(2, 0, 0, EAFNOSUPPORT);
	answer(SECCOMP_RET_ALLOW);
	end_call(call);

	rule_address(SYS_bind);
	if (connecting)
		rule_address(SYS_connect);
}

static void rule_seccomp(void)
{
	unsigned short call = begin_call(SYS_seccomp);

	need_argument(0, 0, SECCOMP_SET_MODE_FILTER, EINVAL);
	need_argument(1, SECCOMP_FILTER_FLAG_TSYNC, 0, EINVAL); /* no listeners */
	answer(SECCOMP_RET_ALLOW);
	end_call(call);
}

static void rule_timer(void)
{
	unsigned short call = begin_call(SYS_timer_create);

	need_argument(0, 0, CLOCK_MONOTONIC, EINVAL); /* none that wakes up the host */
	answer(SECCOMP_RET_ALLOW);
	end_call(call);
}

static void build(bool connecting, bool passing)
{
	/* UML checks whether its addresses are randomized. */
	static const unsigned personalities[] = { 0xffffffff, PER_LINUX | ADDR_NO_RANDOMIZE };

	rule_architecture();
	rule_mmap();
	ALLOW_VALUES(SYS_ptrace, 0, TRACING, EPERM);
	rule_fcntl();
	rule_sockets(connecting);
	rule_clone();
	ALLOW_VALUES(SYS_kill, 1, SIGNALS, EPERM);
	ALLOW_VALUES(SYS_madvise, 2, ADVICE, EINVAL);
	ALLOW_VALUES(SYS_ioctl, 1, IOCTLS, ENOTTY);
	ALLOW_VALUES(SYS_prctl, 0, PROCESS_OPTIONS, EINVAL);
	ALLOW_VALUES(SYS_arch_prctl, 0, SEGMENTS, EINVAL);
	ALLOW_VALUES(SYS_personality, 0, personalities, EPERM);
	rule_seccomp();
	rule_timer();
	rule_limits();
	allow(ALLOWED, sizeof ALLOWED / sizeof *ALLOWED);
	if (passing || connecting)
		allow(PASSING, sizeof PASSING / sizeof *PASSING);
	deny(ENOSYS);
}

void filter_system_calls(enum role role, bool passing)
{
	if (role == SERVER)
		build_server();
	else
		build(role == CLIENT, passing);
	install();
}
