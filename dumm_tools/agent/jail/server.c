/* The system calls that the server of a guest's files may make (seccomp(2)): those of virtiofsd, written in
 * Rust, and of the C library underneath. A guest decides on names, modes, attributes and contents; the
 * server opens nothing that is not in its file system, which contains little else than the guest's files.
 */
#include "server.h"
#include "filter.h"
#include "rules.h"

#include <asm/prctl.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>

static const unsigned short ALLOWED[] = {
	/* open files */
	SYS_read, SYS_write, SYS_readv, SYS_writev, SYS_pread64, SYS_pwrite64, SYS_preadv, SYS_pwritev,
	SYS_preadv2, SYS_pwritev2, SYS_lseek, SYS_close, SYS_close_range, SYS_dup, SYS_fsync,
	SYS_fdatasync, SYS_syncfs, SYS_ftruncate, SYS_fallocate, SYS_copy_file_range, SYS_fstat,
	SYS_fstatfs, SYS_getdents64, SYS_fchdir, SYS_fchmod, SYS_fchown, SYS_flock,
	/* files by name */
	SYS_open, SYS_openat, SYS_openat2, SYS_access, SYS_faccessat, SYS_faccessat2, SYS_stat, SYS_lstat,
	SYS_newfstatat, SYS_statx, SYS_statfs, SYS_readlink, SYS_readlinkat, SYS_truncate, SYS_getcwd,
	SYS_mkdirat, SYS_unlink, SYS_unlinkat, SYS_renameat, SYS_renameat2, SYS_linkat, SYS_symlinkat, SYS_mknodat,
	SYS_fchmodat, SYS_fchownat, SYS_umask, SYS_utimensat,
	/* extended attributes */
	SYS_getxattr, SYS_lgetxattr, SYS_fgetxattr, SYS_setxattr, SYS_lsetxattr, SYS_fsetxattr,
	SYS_listxattr, SYS_llistxattr, SYS_flistxattr, SYS_removexattr, SYS_lremovexattr,
	SYS_fremovexattr,
	/* memory, except mmap and madvise */
	SYS_munmap, SYS_mprotect, SYS_mremap, SYS_brk,
	/* waiting */
	SYS_poll, SYS_ppoll, SYS_epoll_create, SYS_epoll_create1, SYS_epoll_ctl, SYS_epoll_wait,
	SYS_epoll_pwait, SYS_eventfd2, SYS_futex, SYS_sched_yield,
	/* sockets, except socket, bind and connect */
	SYS_listen, SYS_accept4, SYS_recvmsg, SYS_sendmsg, SYS_shutdown, SYS_getsockopt,
	/* signals and time */
	SYS_rt_sigaction, SYS_rt_sigprocmask, SYS_rt_sigreturn, SYS_sigaltstack, SYS_tkill, SYS_tgkill,
	SYS_restart_syscall, SYS_nanosleep, SYS_clock_nanosleep, SYS_clock_gettime, SYS_gettimeofday,
	SYS_time,
	/* processes and threads, except clone and prctl */
	SYS_fork, SYS_vfork, SYS_execve, SYS_exit, SYS_exit_group, SYS_wait4, SYS_set_tid_address,
	SYS_set_robust_list, SYS_rseq, SYS_membarrier, SYS_sched_getaffinity, SYS_getcpu,
	SYS_getrlimit, SYS_setrlimit, SYS_getrusage,
	/* identity: it acts as the users who create files */
	SYS_getpid, SYS_getppid, SYS_gettid, SYS_getuid, SYS_geteuid, SYS_getgid, SYS_getegid,
	SYS_getresuid, SYS_getresgid, SYS_getgroups, SYS_setresuid, SYS_setresgid, SYS_setgroups,
	SYS_capget, SYS_capset, SYS_uname, SYS_sysinfo, SYS_getrandom,
};

static const unsigned IOCTLS[] = { FIONBIO, FIOCLEX, TCGETS };

static const unsigned ADVICE[] = { MADV_DONTNEED, MADV_FREE, MADV_DONTFORK, MADV_DONTDUMP };

static const unsigned DESCRIPTORS[] = { F_DUPFD, F_GETFD, F_SETFD, F_GETFL, F_SETFL, F_DUPFD_CLOEXEC };

static const unsigned PROCESS_OPTIONS[] = { PR_SET_NAME, PR_GET_NAME, PR_SET_PDEATHSIG, PR_CAPBSET_READ,
					    PR_CAPBSET_DROP, PR_GET_SECUREBITS, PR_GET_NO_NEW_PRIVS };

static const unsigned SEGMENTS[] = { ARCH_SET_FS };

/* Its threads have directories and masks of their own. */
static const unsigned UNSHARED[] = { CLONE_FS };

/* Only those of its own file system. */
static void rule_server_sockets(void)
{
	unsigned short call = begin_call(SYS_socket);

	need_argument(0, 0, AF_UNIX, EAFNOSUPPORT);
	need_argument(1, SOCK_CLOEXEC, SOCK_STREAM, EAFNOSUPPORT);
	need_argument(2, 0, 0, EAFNOSUPPORT);
	answer(SECCOMP_RET_ALLOW);
	end_call(call);
	rule_address(SYS_bind);
	rule_address(SYS_connect);
}

void build_server(void)
{
	rule_architecture();
	rule_mmap();
	rule_clone();
	ALLOW_VALUES(SYS_fcntl, 1, DESCRIPTORS, EINVAL);
	ALLOW_VALUES(SYS_madvise, 2, ADVICE, EINVAL);
	ALLOW_VALUES(SYS_ioctl, 1, IOCTLS, ENOTTY);
	ALLOW_VALUES(SYS_prctl, 0, PROCESS_OPTIONS, EINVAL);
	ALLOW_VALUES(SYS_arch_prctl, 0, SEGMENTS, EINVAL);
	ALLOW_VALUES(SYS_unshare, 0, UNSHARED, EPERM);
	rule_server_sockets();
	rule_limits();
	allow(ALLOWED, sizeof ALLOWED / sizeof *ALLOWED);
	deny(ENOSYS);
}
