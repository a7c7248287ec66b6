/* Attempts that a compromised guest kernel would make. tests/test_rogue.py uses this program
 * instead of the UML binary.
 *
 * Each attempt is one line, `NAME: failed WHY` or `NAME: SUCCEEDED HOW`, on standard output,
 * which is the guest's console.log. Its targets are given by arguments `rogue.KEY=VALUE`. With
 * `rogue.role=victim` it plays a harmless guest. It does no harm if nothing stops it: the test also
 * runs it without a jail, to see that the attempts would work. */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/capability.h>
#include <linux/fs.h>
#include <linux/if_packet.h>
#include <linux/if_tun.h>
#include <linux/netlink.h>
#include <net/if.h>
#include <netinet/in.h>
#include <sched.h>
#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/fsuid.h>
#include <sys/io.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/personality.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <sys/xattr.h>
#include <time.h>
#include <unistd.h>

static int arg_count;
static char **args;
static char how[4200]; /* an attempt may write here what it got */

static const char *told(const char *key)
{
	size_t n = strlen(key);

	for (int i = 1; i < arg_count; i++)
		if (!strncmp(args[i], "rogue.", 6) && !strncmp(args[i] + 6, key, n) &&
		    args[i][6 + n] == '=')
			return args[i] + 7 + n;
	return "";
}

static bool control(void) /* outside a jail, where nothing may be harmed */
{
	return !strcmp(told("role"), "control");
}

/* Results of attempts: 0 for success, otherwise the reason for the failure. */
static int of(long result)
{
	return result < 0 ? errno : 0;
}

/* For calls with arguments that can't work: any error except a refusal means that we got through. */
static int refused(long result)
{
	return result < 0 && (errno == EPERM || errno == ENOSYS || errno == EACCES) ? errno : 0;
}

/* ---- files of the host ---- */

/* Whether a directory has an entry that is not in `known`. */
static int list(const char *path, const char *known)
{
	char name[300];
	DIR *d = opendir(path);

	if (!d)
		return errno;
	for (struct dirent *e; (e = readdir(d));) {
		snprintf(name, sizeof name, " %s ", e->d_name);
		if (!strstr(known, name)) {
			snprintf(how, sizeof how, "%s/%s", path, e->d_name);
			return 0;
		}
	}
	return ENOENT;
}

static int list_root(void)
{
	int got = list("/etc", " . .. ld.so.preload preload.so ");

	return got == 0 ? 0 : list("/",
		" . .. usr lib lib64 bin linux kernel boot guest run uml xfer initrd dev tmp proc etc ");
}

static int read_shadow(void) { return of(open("/etc/shadow", O_RDONLY)); }
static int read_home(void) { return of(open(told("home"), O_RDONLY)); }
static int other_tree(void) { return of(open(told("tree"), O_RDONLY)); }
static int other_run(void) { return of(open(told("run"), O_RDONLY)); }

static int other_line(void)
{
	char path[4096];

	snprintf(path, sizeof path, "%s/line0.in", told("run"));
	return of(open(path, O_RDWR | O_NONBLOCK));
}

static int unix_to(int type, const char *path, bool abstract)
{
	struct sockaddr_un a = { .sun_family = AF_UNIX };
	socklen_t n = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + strlen(path) + abstract);
	int s = socket(AF_UNIX, type, 0);

	if (strlen(path) > 100) /* the last part of the path, relative to its directory */
		return ENAMETOOLONG;
	strcpy(a.sun_path + abstract, path);
	if (s < 0)
		return errno;
	if (type == SOCK_DGRAM)
		return of(sendto(s, "x", 1, MSG_DONTWAIT, (struct sockaddr *)&a, n));
	return of(connect(s, (struct sockaddr *)&a, n));
}

static int other_mconsole(void)
{
	if (chdir(told("run")))
		return errno;
	return unix_to(SOCK_DGRAM, "uml/m/mconsole", false);
}

static int climb(void)
{
	static const char *from[] = { ".", "/guest", "/run/uml", "/xfer", "/dev/shm", "/usr", "/tmp" };
	struct stat root, top;
	int failure = ENOENT;

	/* Outside a jail there is nothing for `..` to leave: enter another root directory instead. */
	if (stat("/", &root) || (control() && chroot("/usr")))
		return errno;
	if (control())
		return 0;
	for (size_t i = 0; i < sizeof from / sizeof *from; i++) {
		int fd = open(from[i], O_RDONLY | O_DIRECTORY);

		for (int n = 0; fd >= 0 && n < 40; n++)
			fd = openat(fd, "..", O_RDONLY | O_DIRECTORY);
		if (fd >= 0 && !fstat(fd, &top) &&
		    (top.st_ino != root.st_ino || top.st_dev != root.st_dev)) {
			snprintf(how, sizeof how, "%s/../..", from[i]);
			return 0;
		}
	}
	return failure;
}

static int double_chroot(void)
{
	const char *below = control() ? "chroot" : "/tmp/chroot";
	int here = open("/", O_RDONLY);

	mkdir(below, 0700);
	if (chroot(below))
		return errno;
	fchdir(here);
	return 0;
}

static int first_of(const char *const *paths, int flags)
{
	int failure = ENOENT;

	for (; *paths; paths++) {
		int fd = open(*paths, flags, 0600);

		if (fd >= 0 && flags & O_CREAT)
			unlink(*paths);
		if (fd >= 0) {
			snprintf(how, sizeof how, "%s", *paths);
			return 0;
		}
		failure = errno;
	}
	return failure;
}

static int write_pack(void)
{
	static const char *const paths[] = { "/usr/rogue", "/usr/bin/rogue", "/bin/rogue", NULL };

	if (!control() && !unlink("/usr/bin/linux.uml"))
		return 0;
	return first_of(paths, O_WRONLY | O_CREAT | O_EXCL);
}

static int write_given(void)
{
	static const char *const paths[] = { "/xfer/rogue", "/rogue", "/etc/rogue", "/dev/rogue", NULL };

	if (open("/initrd", O_WRONLY) >= 0 || open("/boot", O_WRONLY) >= 0 || !unlink("/kernel"))
		return 0;
	return first_of(paths, O_WRONLY | O_CREAT | O_EXCL);
}

static int proc_links(void)
{
	static const char *const paths[] = { "/proc/1/root", "/proc/1/cwd", "/proc/self/root",
					     "/proc/self/cwd", "/proc/self/fd/1", "/proc/1/fd/3", NULL };

	return first_of(paths, O_RDONLY);
}

static int proc_write(void)
{
	static const char *const paths[] = { "/proc/sysrq-trigger", "/proc/sys/kernel/core_pattern",
					     "/proc/sys/kernel/hostname", "/proc/self/oom_score_adj",
					     "/proc/self/uid_map", NULL };

	return first_of(paths, O_WRONLY);
}

static int proc_read(void)
{
	static const char *const paths[] = { "/proc/kallsyms", "/proc/kcore", "/proc/keys",
					     "/proc/self/mountinfo", "/proc/cmdline", "/proc/net/unix",
					     NULL };

	return first_of(paths, O_RDONLY);
}

static int sys_open(void)
{
	static const char *const paths[] = { "/sys/kernel", "/sys/class/net", "/sys/fs/cgroup", NULL };

	return first_of(paths, O_RDONLY);
}

static int by_handle(void)
{
	struct {
		struct file_handle head;
		char room[128];
	} h = { .head.handle_bytes = 128 };
	int id;

	if (syscall(SYS_name_to_handle_at, AT_FDCWD, "/", &h, &id, 0))
		return errno;
	return of(syscall(SYS_open_by_handle_at, AT_FDCWD, &h, O_RDONLY));
}

/* ---- descriptors that we were started with ---- */

static int fd_directory(void)
{
	for (int fd = 0; fd < 1024; fd++) {
		struct stat st;

		if (!fstat(fd, &st) &&
		    (S_ISDIR(st.st_mode) || openat(fd, "..", O_RDONLY | O_DIRECTORY) >= 0)) {
			snprintf(how, sizeof how, "descriptor %d", fd);
			return 0;
		}
	}
	return ENOTDIR;
}

static int fd_file(void)
{
	struct stat log, null, st;

	if (fstat(1, &log) || stat("/dev/null", &null))
		return errno;
	for (int fd = 0; fd < 1024; fd++)
		if (!fstat(fd, &st) && !S_ISFIFO(st.st_mode) &&
		    (st.st_ino != log.st_ino || st.st_dev != log.st_dev) &&
		    !(S_ISCHR(st.st_mode) && st.st_rdev == null.st_rdev)) {
			snprintf(how, sizeof how, "descriptor %d, mode %o", fd, st.st_mode);
			return 0;
		}
	return EBADF;
}

static int fd_lock(void) { return of(flock(1, LOCK_EX | LOCK_NB)); }

static int fd_lease(void)
{
	int fd = open(control() ? "lease" : "/guest/lease", O_RDONLY | O_CREAT, 0600);

	return fd < 0 ? errno : of(fcntl(fd, F_SETLEASE, F_RDLCK));
}

/* Writes to a file on the host. */
static int print_to(void)
{
	struct stat st;

	if (control())
		return open("log", O_RDWR | O_CREAT, 0600);
	return fstat(1, &st) || !S_ISREG(st.st_mode) ? -1 : 1;
}

static int log_size(void)
{
	int fd = print_to();

	return fd < 0 ? EBADF : of(ftruncate(fd, 1L << 40));
}

static int log_mode(void)
{
	int fd = print_to();

	return fd < 0 ? EBADF : of(fchmod(fd, 0777));
}

static int line_mode(void)
{
	int failure = EBADF;
	struct stat st;

	if (control())
		return of(mkfifo("fifo", 0600)) || of(chmod("fifo", 0777)) ? errno : 0;
	for (int fd = 3; fd < 1024; fd++)
		if (!fstat(fd, &st) && S_ISFIFO(st.st_mode)) {
			if (!fchmod(fd, 0777) || !fchown(fd, 1, 1)) {
				snprintf(how, sizeof how, "descriptor %d", fd);
				return 0;
			}
			failure = errno;
		}
	return failure;
}

/* ---- devices and setuid programs ---- */

static int device(mode_t kind, unsigned major_number, unsigned minor_number)
{
	static const char *const places[] = { "/guest/dev", "/tmp/dev", "/run/uml/dev", "/dev/shm/dev" };
	int failure = ENOENT;

	for (size_t i = 0; i < sizeof places / sizeof *places; i++) {
		if (!mknod(places[i], kind | 0600, makedev(major_number, minor_number))) {
			snprintf(how, sizeof how, "made %s", places[i]);
			unlink(places[i]);
			return 0;
		}
		if (errno != ENOENT)
			failure = errno;
	}
	return failure;
}

static int device_block(void) { return device(S_IFBLK, 7, 0); }
static int device_char(void) { return device(S_IFCHR, 1, 1); }

static int device_open(void)
{
	static const char *const paths[] = { "/dev/mem", "/dev/kmem", "/dev/port", "/dev/kmsg",
					     "/dev/vda", "/dev/sda", "/dev/tty", "/dev/console",
					     "/dev/fuse", "/dev/ptmx", "/guest/dev/mem", NULL };

	return first_of(paths, O_RDONLY | O_NONBLOCK);
}

static int setuid_program(void)
{
	const char *place = control() ? "./suid" : "/guest/suid";
	char buf[65536];
	ssize_t n;
	int from = open(control() ? args[0] : "/usr/bin/linux.uml", O_RDONLY);
	int to = open(place, O_WRONLY | O_CREAT | O_TRUNC, 0755);

	if (from < 0 || to < 0)
		return errno;
	while ((n = read(from, buf, sizeof buf)) > 0)
		if (write(to, buf, (size_t)n) != n)
			return errno;
	close(to);
	/* Left in place, so that the test can look at it from the host. */
	if (chown(place, 1, 1) || chmod(place, 06755))
		return errno;
	pid_t pid = fork();
	int status;

	if (pid == 0) {
		execl(place, place, "rogue.role=who", NULL);
		_exit(0);
	}
	waitpid(pid, &status, 0);
	return WIFEXITED(status) && WEXITSTATUS(status) == 1 ? 0 : EPERM;
}

/* Sets its present mode, which is harmless outside a jail. */
static int device_mode(void)
{
	static const char *const paths[] = { "/dev/null", "/dev/urandom", "/dev/net/tun", NULL };
	struct stat st;
	int failure = EBADF;

	for (int fd = 0; fd < 1024; fd++)
		if (!fstat(fd, &st) && S_ISCHR(st.st_mode)) {
			if (!fchmod(fd, st.st_mode & 07777) || !fchown(fd, st.st_uid, st.st_gid)) {
				snprintf(how, sizeof how, "descriptor %d", fd);
				return 0;
			}
			failure = errno;
		}
	for (int i = 0; paths[i]; i++) {
		if (stat(paths[i], &st))
			continue;
		if (!chmod(paths[i], st.st_mode & 07777) || !chown(paths[i], st.st_uid, st.st_gid) ||
		    !utimensat(AT_FDCWD, paths[i], NULL, 0)) {
			snprintf(how, sizeof how, "%s", paths[i]);
			return 0;
		}
		failure = errno;
	}
	return failure;
}

static int own_file(void)
{
	return open(control() ? "own" : "/guest/own", O_RDWR | O_CREAT, 0600);
}

static int file_capability(void)
{
	struct vfs_ns_cap_data data = { .magic_etc = VFS_CAP_REVISION_2 };
	int fd = own_file();

	data.data[0].permitted = 1 << CAP_CHOWN;
	return fd < 0 ? errno : of(fsetxattr(fd, "security.capability", &data, XATTR_CAPS_SZ_2, 0));
}

static int file_flags(void)
{
	int fd = own_file(), flags = FS_NODUMP_FL;

	return fd < 0 ? errno : of(ioctl(fd, FS_IOC_SETFLAGS, &flags));
}

static int memory_execute(void)
{
	char buf[65536];
	ssize_t n;
	int from = open(control() ? args[0] : "/usr/bin/linux.uml", O_RDONLY);
	int to = (int)syscall(SYS_memfd_create, "rogue", 1 /* MFD_CLOEXEC */);
	int status;

	if (from < 0 || to < 0)
		return errno;
	while ((n = read(from, buf, sizeof buf)) > 0)
		if (write(to, buf, (size_t)n) != n)
			return errno;
	pid_t pid = fork();

	if (pid == 0) {
		char *words[] = { args[0], "rogue.role=who", NULL }, *none[] = { NULL };

		syscall(SYS_execveat, to, "", words, none, AT_EMPTY_PATH);
		_exit(0);
	}
	waitpid(pid, &status, 0);
	return WIFEXITED(status) && WEXITSTATUS(status) == 2 ? 0 : EPERM;
}

/* ---- mounts and namespaces ---- */

static int mount_tmpfs(void) { return of(mount("t", "/tmp", "tmpfs", 0, NULL)); }
static int mount_proc(void) { return of(mount("p", "/tmp", "proc", 0, NULL)); }
static int mount_bind(void) { return of(mount("/", "/tmp", NULL, MS_BIND, NULL)); }
static int unmount(void) { return of(umount2("/xfer", MNT_DETACH)); }
static int fs_open(void) { return of(syscall(SYS_fsopen, "tmpfs", 0)); }
static int tree_open(void) { return of(syscall(SYS_open_tree, AT_FDCWD, "/", 1)); }
static int tree_move(void) { return refused(syscall(SYS_move_mount, -1, "", AT_FDCWD, "/tmp", 4)); }
static int tree_change(void) { return refused(syscall(SYS_mount_setattr, -1, "", 0x1000, NULL, 0)); }
static int list_mounts(void)
{
	struct {
		unsigned size, spare;
		unsigned long long id, parameter, space;
	} all = { .size = 24, .id = ~0ULL /* LSMT_ROOT */ };
	unsigned long long found[16];

	return of(syscall(458 /* listmount(2), Linux 6.8 */, &all, found, 16UL, 0));
}

static int pivot(void) { return refused(syscall(SYS_pivot_root, "/nowhere", "/nowhere")); }

static int remount(void)
{
	return of(mount(NULL, "/usr", NULL, MS_REMOUNT | MS_BIND, NULL)) &&
	       of(mount(NULL, "/", NULL, MS_REMOUNT | MS_BIND, NULL)) ? errno : 0;
}

static int own_namespace(void)
{
	static const int flags[] = { CLONE_NEWUSER, CLONE_NEWNS, CLONE_NEWNET, CLONE_NEWPID,
				     CLONE_NEWIPC,  CLONE_NEWUTS, CLONE_NEWCGROUP,
				     CLONE_NEWTIME };
	int failure = 0;

	for (size_t i = 0; i < sizeof flags / sizeof *flags; i++) {
		if (!unshare(flags[i]) || !unshare(flags[i] | CLONE_NEWUSER)) {
			snprintf(how, sizeof how, "unshare %#x", flags[i]);
			return 0;
		}
		failure = errno;
	}
	return failure;
}

static int clone_namespace(void)
{
	/* Plain clone(2), and clone3(2), whose arguments filters cannot see. */
	long pid = syscall(SYS_clone, CLONE_NEWUSER | SIGCHLD, 0, 0, 0, 0);
	struct {
		unsigned long long a[11];
	} v3 = { { CLONE_NEWUSER, 0, 0, 0, SIGCHLD } };

	if (pid < 0)
		pid = syscall(SYS_clone3, &v3, sizeof v3);
	if (pid == 0)
		_exit(0);
	return of(pid);
}

static int enter_namespace(void)
{
	long fd = syscall(SYS_pidfd_open, 1, 0);

	if (fd < 0)
		fd = open("/proc/1/ns/mnt", O_RDONLY);
	return fd < 0 ? errno : of(setns((int)fd, CLONE_NEWNS));
}

/* ---- privileges ---- */

static int capabilities(void)
{
	struct __user_cap_header_struct head = { _LINUX_CAPABILITY_VERSION_3, 0 };
	struct __user_cap_data_struct data[2];

	if (syscall(SYS_capget, &head, data)) /* if refused, start from none */
		memset(data, 0, sizeof data);
	data[0].permitted |= 1 << CAP_SYS_ADMIN;
	data[0].effective |= 1 << CAP_SYS_ADMIN;
	return of(syscall(SYS_capset, &head, data));
}

static int bounding_set(void)
{
	return prctl(PR_CAPBSET_READ, CAP_SYS_ADMIN, 0, 0, 0) == 1 ? 0 : EPERM;
}

static int ambient(void)
{
	return of(prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, CAP_SYS_ADMIN, 0, 0));
}

static int other_user(void) { return of(setresuid(1, 1, 1)); }
static int other_groups(void) { return of(setgroups(1, &(gid_t){ 1 })); }

static int new_privileges(void) /* by executing a program that gets more */
{
	int status;
	pid_t pid = fork();

	if (pid == 0) {
		execl(control() ? args[0] : "/usr/bin/linux.uml", "rogue", "rogue.role=device", NULL);
		_exit(0);
	}
	waitpid(pid, &status, 0);
	return WIFEXITED(status) && WEXITSTATUS(status) == 1 ? 0 : EPERM;
}

/* ---- processes outside ---- */

static bool of_ours(pid_t pid)
{
	return pid == getpid() || pid == getppid() || (!control() && pid == 1);
}

static int signal_others(void)
{
	for (pid_t pid = 1; pid < 1 << 22; pid++)
		if (!of_ours(pid) && !kill(pid, 0)) {
			snprintf(how, sizeof how, "process %d", pid);
			return 0;
		}
	return errno;
}

static int signal_keeper(void)
{
	if (control())
		return of(kill(1, 0));
	if (kill(1, SIGKILL))
		return errno;
	usleep(200000);
	return ESRCH; /* if it had ended, so would we */
}

static int signal_all(void)
{
	/* It ends processes that do not ignore it: the test checks the others. */
	if (kill(-1, control() ? 0 : SIGUSR1))
		return errno;
	return control() ? 0 : ESRCH;
}

static int trace_others(void)
{
	int failure = ESRCH;

	for (pid_t pid = 1; pid < 1 << 16; pid++)
		if (pid != getpid() && pid != getppid()) {
			if (!ptrace(PTRACE_SEIZE, pid, 0, 0)) {
				snprintf(how, sizeof how, "process %d", pid);
				ptrace(PTRACE_DETACH, pid, 0, 0);
				return 0;
			}
			if (errno != ESRCH)
				failure = errno;
		}
	return failure;
}

static int read_keeper(void)
{
	char byte;
	struct iovec here = { &byte, 1 }, there = { (void *)0x400000, 1 };

	if (control())
		there.iov_base = &byte;
	return of(syscall(SYS_process_vm_readv, control() ? getpid() : 1, &here, 1, &there, 1, 0));
}

static int write_keeper(void)
{
	char byte = 0, target = 0;
	struct iovec here = { &byte, 1 }, there = { (void *)0x400000, 1 };

	if (control())
		there.iov_base = &target;
	return of(syscall(SYS_process_vm_writev, control() ? getpid() : 1, &here, 1, &there, 1, 0));
}

static int compare_keeper(void)
{
	return of(syscall(SYS_kcmp, control() ? getppid() : 1, getpid(), 2 /* KCMP_FILES */, 0, 0));
}

/* A pipe signals the owner of its readers, but no process outside has an id that we could name. */
static int signal_owner(void)
{
	int ends[2];

	if (pipe(ends))
		return errno;
	for (pid_t pid = 1; pid < 1 << 16; pid++)
		if (!of_ours(pid) && !fcntl(ends[0], F_SETOWN, pid)) {
			snprintf(how, sizeof how, "process %d", pid);
			return 0;
		}
	return errno;
}

static int take_precedence(void)
{
	struct sched_param most = { 1 };

	return of(setpriority(PRIO_PROCESS, 0, -1)) &&
	       of(syscall(SYS_sched_setscheduler, 0, SCHED_FIFO, &most)) &&
	       of(syscall(SYS_ioprio_set, 1, 0, 1 << 13 | 4)) ? errno : 0;
}

static int take_descriptor(void)
{
	long fd = syscall(SYS_pidfd_open, control() ? getppid() : 1, 0);

	return fd < 0 ? errno : of(syscall(SYS_pidfd_getfd, fd, control() ? 1 : 3, 0));
}

static int limit_keeper(void)
{
	unsigned long long r[2];

	return of(syscall(SYS_prlimit64, 1, 7, NULL, r));
}

/* ---- the network ---- */

static int tap(const char *name, int flags)
{
	struct ifreq r = { .ifr_flags = (short)(IFF_TAP | IFF_NO_PI | IFF_VNET_HDR | flags) };
	int fd = open("/dev/net/tun", O_RDWR);

	if (fd < 0)
		return errno;
	if (name)
		strncpy(r.ifr_name, name, IFNAMSIZ - 1);
	if (ioctl(fd, TUNSETIFF, &r))
		return errno;
	snprintf(how, sizeof how, "%s", r.ifr_name);
	return 0;
}

static int tap_busy(void) { return tap(told("tap"), 0); }
static int tap_queue(void) { return tap(told("tap"), IFF_MULTI_QUEUE); }
static int tap_idle(void) { return tap(told("idle"), 0); }
static int tap_new(void) { return tap("rogue%d", 0); }

static int tap_give(void)
{
	struct ifreq r = { .ifr_flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR };
	int fd = open("/dev/net/tun", O_RDWR);

	strncpy(r.ifr_name, told("own"), IFNAMSIZ - 1);
	if (fd < 0 || ioctl(fd, TUNSETIFF, &r)) {
		/* Our own must open, otherwise the attempt proves nothing. */
		snprintf(how, sizeof how, "own tap '%s' did not open: %s", told("own"), strerror(errno));
		return 0;
	}
	return of(ioctl(fd, TUNSETOWNER, 1)) && of(ioctl(fd, TUNSETPERSIST, 0)) ? errno : 0;
}

static int inet(int family)
{
	struct sockaddr_in four = {
		.sin_family = AF_INET,
		.sin_port = htons((unsigned short)atoi(told("port"))),
		.sin_addr.s_addr = htonl(INADDR_LOOPBACK),
	};
	int s = socket(family, SOCK_STREAM, 0);

	if (s < 0)
		return errno;
	return family == AF_INET ? of(connect(s, (struct sockaddr *)&four, sizeof four)) : 0;
}

static int net_tcp(void) { return inet(AF_INET); }
static int net_tcp6(void) { return inet(AF_INET6); }
static int net_udp(void) { return of(socket(AF_INET, SOCK_DGRAM, 0)); }
static int net_raw(void) { return of(socket(AF_INET, SOCK_RAW, IPPROTO_ICMP)); }
static int net_packet(void) { return of(socket(AF_PACKET, SOCK_RAW, 0)); }
static int net_netlink(void) { return of(socket(AF_NETLINK, SOCK_RAW, NETLINK_ROUTE)); }

static int net_other(void)
{
	static const int types[] = { SOCK_STREAM, SOCK_DGRAM, SOCK_RAW, SOCK_SEQPACKET };

	for (int family = AF_UNIX; family < 50; family++)
		for (int i = 0; i < 4; i++) {
			if (family == AF_INET || family == AF_INET6 || family == AF_PACKET ||
			    family == AF_NETLINK || (family == AF_UNIX && types[i] != SOCK_SEQPACKET))
				continue; /* attempts of their own */
			if (socket(family, types[i], 0) >= 0) {
				snprintf(how, sizeof how, "family %d, type %d", family, types[i]);
				return 0;
			}
		}
	return errno;
}

static int unix_stream(void) { return unix_to(SOCK_STREAM, told("stream"), true); }
static int unix_datagram(void) { return unix_to(SOCK_DGRAM, told("datagram"), true); }

static int unix_pair(void)
{
	static const int types[] = { SOCK_DGRAM, SOCK_SEQPACKET, SOCK_STREAM };
	int ends[2];

	for (int family = AF_UNIX; family < 50; family++)
		for (int i = 0; i < 3; i++)
			if ((family != AF_UNIX || types[i] != SOCK_STREAM) &&
			    !socketpair(family, types[i], 0, ends)) {
				snprintf(how, sizeof how, "family %d, type %d", family, types[i]);
				return 0;
			}
	return errno;
}

static int abstract(socklen_t length)
{
	struct sockaddr_un a = { .sun_family = AF_UNIX, .sun_path = "\0rogue" };
	int s = socket(AF_UNIX, SOCK_DGRAM, 0);

	return s < 0 ? errno : of(bind(s, (struct sockaddr *)&a, length));
}

static int unix_name(void) { return abstract(offsetof(struct sockaddr_un, sun_path) + 6); }
static int unix_any_name(void) { return abstract(sizeof(sa_family_t)); }

static int unix_options(void)
{
	int s = socket(AF_UNIX, SOCK_DGRAM, 0);

	return s < 0 ? errno : of(setsockopt(s, SOL_SOCKET, SO_PASSCRED, &(int){ 1 }, sizeof(int)));
}

/* ---- the host's kernel ---- */

static int modules(void)
{
	return refused(syscall(SYS_init_module, "", 0, "")) &&
	       refused(syscall(SYS_finit_module, -1, "", 0)) &&
	       refused(syscall(SYS_delete_module, "rogue", O_NONBLOCK)) ? errno : 0;
}

static int do_kexec(void) { return refused(syscall(SYS_kexec_load, 0, 0, NULL, 1UL << 60)); }
static int do_reboot(void) { return refused(syscall(SYS_reboot, 0, 0, 0, NULL)); }
static int do_swap(void) { return refused(syscall(SYS_swapon, "/nowhere", 0)); }
static int do_acct(void) { return refused(syscall(SYS_acct, "/nowhere")); }
static int do_time(void) { return of(syscall(SYS_settimeofday, NULL, NULL)); }
static int do_hostname(void) { return of(sethostname("rogue", 5)); }
static int do_ports(void) { return of(syscall(SYS_iopl, 3)); }
static int do_syslog(void) { return of(syscall(SYS_syslog, 10, NULL, 0)); }
static int do_perf(void) { return refused(syscall(SYS_perf_event_open, NULL, 0, -1, -1, 0)); }
static int do_bpf(void) { return refused(syscall(SYS_bpf, 0, NULL, 0)); }
static int do_userfault(void) { return of(syscall(SYS_userfaultfd, 1)); }
static int do_uring(void) { return refused(syscall(SYS_io_uring_setup, 1, NULL)); }
static int do_aio(void)
{
	unsigned long context = 0;

	return of(syscall(SYS_io_setup, 1, &context));
}

static int do_splice(void)
{
	char byte = 0;
	struct iovec page = { &byte, 1 };
	int ends[2];

	return pipe(ends) ? errno : of(syscall(SYS_vmsplice, ends[1], &page, 1UL, 0)) &&
	       of(syscall(SYS_splice, ends[0], NULL, 1, NULL, 1UL, 0)) &&
	       of(syscall(SYS_sendfile, 1, 0, NULL, 1UL)) ? errno : 0;
}

static int do_fanotify(void) { return of(syscall(SYS_fanotify_init, 0, 0)); }
static int do_quota(void) { return refused(syscall(SYS_quotactl, 0, "/nowhere", 0, NULL)); }

static int do_keys(void)
{
	return of(syscall(SYS_keyctl, 0, -3, 1)) &&
	       of(syscall(SYS_add_key, "user", "rogue", "x", 1, -3)) ? errno : 0;
}

static int do_ipc(void)
{
	return of(syscall(SYS_shmget, 0, 4096, 01600)) && of(syscall(SYS_msgget, 0, 01600)) &&
	       of(syscall(SYS_mq_open, "rogue", O_CREAT | O_RDWR, 0600, NULL)) ? errno : 0;
}

static int do_personality(void)
{
	return of(personality(PER_LINUX | READ_IMPLIES_EXEC)) && of(personality(PER_SVR4)) ? errno : 0;
}

static int terminal_input(void)
{
	for (int fd = 0; fd < 1024; fd++)
		if (!ioctl(fd, TIOCSTI, "x") || errno == EIO || errno == EPERM)
			return 0;
	return ENOTTY;
}

static int old_calls(void)
{
	long answer;

	__asm__ volatile("int $0x80" : "=a"(answer) : "a"(20L) : "memory", "r8", "r9", "r10", "r11");
	if ((int)answer == getpid())
		return 0;
	if (syscall(0x40000000 | SYS_getpid) == getpid())
		return 0;
	return ENOSYS;
}

/* ---- more than we were given ---- */

static int take_memory(unsigned long limit, int flags, int fd)
{
	const unsigned long piece = 1 << 20;

	for (unsigned long got = 0; got <= limit; got += piece) {
		if (fd >= 0 && ftruncate(fd, (off_t)(got + piece)))
			return errno;
		char *p = mmap(NULL, piece, PROT_READ | PROT_WRITE, flags, fd, fd >= 0 ? (off_t)got : 0);

		if (p == MAP_FAILED)
			return errno;
		memset(p, 1, piece);
	}
	snprintf(how, sizeof how, "more than %lu MiB", limit >> 20);
	return 0;
}

static unsigned long allowance(void) { return strtoul(told("memory"), NULL, 10); }

static int memory_private(void)
{
	return take_memory(allowance(), MAP_PRIVATE | MAP_ANONYMOUS, -1);
}

static int memory_shared(void)
{
	return take_memory(allowance(), MAP_SHARED | MAP_ANONYMOUS, -1);
}

static int memory_stack(void)
{
	return take_memory(allowance(), MAP_PRIVATE | MAP_ANONYMOUS | MAP_GROWSDOWN, -1);
}

static int memory_remap(void) /* the stack grows without a check of its limit */
{
	char low[16 * 4096]; /* pages of the stack that nobody needs */
	char *page = (char *)(((unsigned long)low + 4095) & ~4095UL);

	memset(low, 1, sizeof low);
	page = mremap(page, 4096, allowance(), MREMAP_MAYMOVE);
	if (page == MAP_FAILED)
		return errno;
	memset(page, 1, allowance());
	return 0;
}

static int memory_file(void)
{
	int fd = open("/dev/shm/rogue", O_RDWR | O_CREAT | O_TRUNC, 0600);

	unlink("/dev/shm/rogue");
	return fd < 0 ? errno : take_memory(allowance(), MAP_SHARED, fd);
}

static int memory_memfd(void)
{
	int fd = (int)syscall(SYS_memfd_create, "rogue", 0);

	return fd < 0 ? errno : take_memory(allowance(), MAP_SHARED, fd);
}

static int memory_limits(void)
{
	unsigned long long most[2] = { ~0ULL, ~0ULL };

	return of(syscall(SYS_prlimit64, 0, 2 /* RLIMIT_DATA */, most, NULL));
}

static int memory_huge(void)
{
	const size_t size = 2 << 20;

	return mmap(NULL, size, PROT_READ | PROT_WRITE,
		    MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB | MAP_NORESERVE, -1, 0) == MAP_FAILED ?
		       errno :
		       0;
}

static int memory_locked(void)
{
	const int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_LOCKED;

	if (!mlock(how, sizeof how))
		return 0;
	return mmap(NULL, 4096, PROT_READ | PROT_WRITE, flags, -1, 0) == MAP_FAILED ? errno : 0;
}

/* As many as possible, 100,000 of them if nothing stops us. */
static int timers(unsigned long enough)
{
	struct sigevent event = { .sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGUSR1 };

	for (unsigned long n = 0; n < enough; n++) {
		int id; /* the kernel's type, which is not the C library's timer_t */

		if (syscall(SYS_timer_create, CLOCK_MONOTONIC, &event, &id))
			return errno;
	}
	snprintf(how, sizeof how, "%lu timers", enough);
	return 0;
}

static int many_timers(void) { return timers(control() ? 1000 : 33); }

static int many_signals(void)
{
	sigset_t all;

	sigfillset(&all);
	sigprocmask(SIG_BLOCK, &all, NULL);
	for (int n = 0; n < 1000; n++)
		if (kill(getpid(), SIGRTMIN))
			return errno;
	snprintf(how, sizeof how, "1000 signals");
	return 0;
}

/* Descriptors in messages that nobody receives. */
static int in_flight(int messages)
{
	union {
		struct cmsghdr head;
		char room[CMSG_SPACE(253 * sizeof(int))];
	} control_data;
	struct iovec data = { "x", 1 };
	struct msghdr m = { .msg_iov = &data, .msg_iovlen = 1, .msg_control = &control_data,
			    .msg_controllen = sizeof control_data };
	int ends[2];

	memset(&control_data, 0, sizeof control_data);
	control_data.head.cmsg_level = SOL_SOCKET;
	control_data.head.cmsg_type = SCM_RIGHTS;
	control_data.head.cmsg_len = CMSG_LEN(253 * sizeof(int));
	while (messages) {
		if (socketpair(AF_UNIX, SOCK_STREAM, 0, ends))
			return errno;
		for (int i = 0; i < 100 && messages; i++, messages--)
			if (sendmsg(ends[0], &m, MSG_DONTWAIT) < 0)
				return errno;
	}
	snprintf(how, sizeof how, "253 descriptors in a message");
	return 0;
}

static int many_in_flight(void) { return in_flight(control() ? 1 : 40); }

static int own_pipes(void)
{
	int ends[2];

	return of(pipe(ends));
}

static int many_files(void)
{
	for (int n = 0; n < (control() ? 10 : 4096); n++)
		if (dup(1) < 0)
			return errno;
	return 0;
}

static int choose_processor(void)
{
	cpu_set_t one;

	CPU_ZERO(&one);
	CPU_SET(0, &one);
	return of(sched_setaffinity(0, sizeof one, &one));
}

static int listen_to_calls(void)
{
	struct {
		unsigned short length;
		void *filter;
	} program = { 0, NULL };

	/* An invalid filter: outside a jail the filter is rejected, not the call. */
	if (!syscall(SYS_seccomp, 1 /* SECCOMP_SET_MODE_FILTER */, 8 /* NEW_LISTENER */, &program) ||
	    (control() && errno == EINVAL))
		return 0;
	return errno;
}

static int many_processes(void)
{
	unsigned long limit = strtoul(told("processes"), NULL, 10), n = 0;
	int failure = 0;

	setpgid(0, 0);
	while (!failure && n <= limit) {
		pid_t pid = fork();

		if (pid == 0) {
			pause();
			_exit(0);
		}
		failure = pid < 0 ? errno : 0;
		n += pid > 0;
	}
	signal(SIGTERM, SIG_IGN);
	kill(0, SIGTERM);
	while (waitpid(-1, NULL, 0) > 0)
		;
	snprintf(how, sizeof how, "%lu processes", n);
	return failure;
}

/* ---- all of it ---- */

static const struct attempt {
	const char *name;
	int (*go)(void);
} ATTEMPTS[] = {
	{ "list-root", list_root },
	{ "read-shadow", read_shadow },
	{ "read-home", read_home },
	{ "other-tree", other_tree },
	{ "other-run", other_run },
	{ "other-line", other_line },
	{ "other-mconsole", other_mconsole },
	{ "climb", climb },
	{ "chroot", double_chroot },
	{ "write-pack", write_pack },
	{ "write-given", write_given },
	{ "proc-links", proc_links },
	{ "proc-write", proc_write },
	{ "proc-read", proc_read },
	{ "sys", sys_open },
	{ "file-handle", by_handle },
	{ "fd-directory", fd_directory },
	{ "fd-file", fd_file },
	{ "log-size", log_size },
	{ "log-mode", log_mode },
	{ "line-mode", line_mode },
	{ "fd-lock", fd_lock },
	{ "fd-lease", fd_lease },
	{ "device-block", device_block },
	{ "device-char", device_char },
	{ "device-open", device_open },
	{ "device-mode", device_mode },
	{ "setuid", setuid_program },
	{ "file-capability", file_capability },
	{ "file-flags", file_flags },
	{ "memfd-execute", memory_execute },
	{ "new-privileges", new_privileges }, /* before mounts hide this program */
	{ "mount-tmpfs", mount_tmpfs },
	{ "mount-proc", mount_proc },
	{ "mount-bind", mount_bind },
	{ "remount", remount },
	{ "umount", unmount },
	{ "fsopen", fs_open },
	{ "open-tree", tree_open },
	{ "move-mount", tree_move },
	{ "mount-setattr", tree_change },
	{ "list-mounts", list_mounts },
	{ "pivot-root", pivot },
	{ "unshare", own_namespace },
	{ "clone", clone_namespace },
	{ "setns", enter_namespace },
	{ "capset", capabilities },
	{ "bounding-set", bounding_set },
	{ "ambient", ambient },
	{ "setuid-call", other_user },
	{ "setgroups", other_groups },
	{ "signal-others", signal_others },
	{ "signal-keeper", signal_keeper },
	{ "signal-all", signal_all },
	{ "signal-owner", signal_owner },
	{ "ptrace", trace_others },
	{ "process-memory", read_keeper },
	{ "process-write", write_keeper },
	{ "kcmp", compare_keeper },
	{ "pidfd-getfd", take_descriptor },
	{ "prlimit", limit_keeper },
	{ "precedence", take_precedence },
	{ "tap-busy", tap_busy },
	{ "tap-queue", tap_queue },
	{ "tap-idle", tap_idle },
	{ "tap-new", tap_new },
	{ "tap-give", tap_give },
	{ "net-tcp", net_tcp },
	{ "net-tcp6", net_tcp6 },
	{ "net-udp", net_udp },
	{ "net-raw", net_raw },
	{ "net-packet", net_packet },
	{ "net-netlink", net_netlink },
	{ "net-other", net_other },
	{ "unix-stream", unix_stream },
	{ "unix-datagram", unix_datagram },
	{ "unix-name", unix_name },
	{ "unix-any-name", unix_any_name },
	{ "unix-options", unix_options },
	{ "unix-pair", unix_pair },
	{ "modules", modules },
	{ "kexec", do_kexec },
	{ "reboot", do_reboot },
	{ "swapon", do_swap },
	{ "acct", do_acct },
	{ "settime", do_time },
	{ "sethostname", do_hostname },
	{ "iopl", do_ports },
	{ "syslog", do_syslog },
	{ "perf", do_perf },
	{ "bpf", do_bpf },
	{ "userfaultfd", do_userfault },
	{ "io-uring", do_uring },
	{ "aio", do_aio },
	{ "splice", do_splice },
	{ "fanotify", do_fanotify },
	{ "quotactl", do_quota },
	{ "keyrings", do_keys },
	{ "sysv-ipc", do_ipc },
	{ "personality", do_personality },
	{ "tiocsti", terminal_input },
	{ "other-abi", old_calls },
	{ "memory-private", memory_private },
	{ "memory-shared", memory_shared },
	{ "memory-stack", memory_stack },
	{ "memory-remap", memory_remap },
	{ "memory-file", memory_file },
	{ "memory-memfd", memory_memfd },
	{ "memory-huge", memory_huge },
	{ "memory-locked", memory_locked },
	{ "memory-limits", memory_limits },
	{ "timers", many_timers },
	{ "signals", many_signals },
	{ "in-flight", many_in_flight },
	{ "pipes", own_pipes },
	{ "files", many_files },
	{ "affinity", choose_processor },
	{ "listener", listen_to_calls },
	{ "processes", many_processes },
};

static void attempt(const struct attempt *a)
{
	int status;

	fflush(stdout);
	pid_t pid = fork();

	if (pid == 0) {
		alarm(30);
		int error = a->go();

		if (error)
			printf("%s: failed %s\n", a->name, strerrorname_np(error));
		else
			printf("%s: SUCCEEDED %s\n", a->name, how);
		fflush(stdout);
		_exit(0);
	}
	if (pid < 0 || waitpid(pid, &status, 0) != pid)
		printf("%s: not tried, %s\n", a->name, strerrorname_np(errno));
	else if (WIFSIGNALED(status))
		printf("%s: failed signal %d\n", a->name, WTERMSIG(status));
}

/* Resources that other guests would lack if the rogue had them all: it takes and keeps all it can. */
static void take_all(void)
{
	int error = timers(100000);

	printf("taken: timers until %s\n", error ? strerrorname_np(error) : "the end");
	error = in_flight(1000);
	printf("taken: descriptors until %s\n", error ? strerrorname_np(error) : "the end");
}

/* Limited resources that a guest needs from its host. */
static int use_a_little(void)
{
	int error = timers(1);

	if (error || strcmp(told("passing"), "1"))
		return error;
	return in_flight(1);
}

static void flood(void)
{
	for (int n = 0; n < 1000000; n++)
		printf("flood %06d\n", n);
	fflush(stdout);
}

/* A guest with a mconsole, and its first tap open. */
static void be_victim(void)
{
	struct sockaddr_un a = { .sun_family = AF_UNIX, .sun_path = "/run/uml/m/mconsole" };
	int s = socket(AF_UNIX, SOCK_DGRAM, 0);
	int error = *told("own") ? tap(told("own"), 0) : 0;

	if (!error)
		error = use_a_little();
	if (*told("flood"))
		flood();

	mkdir("/run/uml/m", 0700);
	if (s < 0 || bind(s, (struct sockaddr *)&a, sizeof a))
		error = errno;
	printf("victim: %s\n", error ? strerrorname_np(error) : "ready");
	fflush(stdout);
	for (;;)
		if (recv(s, &(char){ 0 }, 1, 0) >= 0) {
			printf("victim: got a message\n");
			fflush(stdout);
		}
}

/* Files that the host's commands will read, made to mislead them. */
static void lay_traps(void)
{
	char path[4096];

	const char *link = !strcmp(told("trap"), "m") ? "/run/uml/m" : "/run/uml/m/mconsole";

	snprintf(path, sizeof path, "%s%s", told("run"), link + 4);
	mkdir("/run/uml/m", 0700);
	unlink("/run/uml/m/mconsole");
	unlink("/run/uml/ready");
	if (!strcmp(told("trap"), "m"))
		rmdir("/run/uml/m");
	/* Deeper than a recursive program has stack or descriptors for. */
	for (int n = 0; n < 3000 && !chdir(n ? "d" : "/run/uml"); n++)
		mkdir("d", 0700);
	printf("traps: %s\n", symlink(path, link) || mkfifo("/run/uml/ready", 0600) ?
		       strerrorname_np(errno) : "laid");
}

int main(int argc, char **argv)
{
	arg_count = argc;
	args = argv;
	if (!strcmp(told("role"), "who"))
		return geteuid() == 1 ? 1 : 2;
	if (!strcmp(told("role"), "device"))
		return device(S_IFCHR, 1, 1) ? 0 : 1;
	if (!strcmp(told("role"), "victim"))
		be_victim();
	signal(SIGUSR1, SIG_IGN);
	for (size_t i = 0; i < sizeof ATTEMPTS / sizeof *ATTEMPTS; i++)
		attempt(&ATTEMPTS[i]);
	if (!control()) {
		lay_traps();
		take_all();
	}
	printf("done\n");
	fflush(stdout);
	while (!control())
		pause();
	return 0;
}
