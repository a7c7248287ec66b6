/* Errors, files, time, and children by pidfd. */
#include "base.h"

#include <linux/sched.h>
#include <stdarg.h>
#include <sys/socket.h>

int status_fd = 2;

void die(const char *format, ...)
{
	char text[4400];
	int error = errno;
	va_list list;

	va_start(list, format);
	int n = vsnprintf(text, sizeof text - 64, format, list);
	va_end(list);
	if (n < 0 || (size_t)n > sizeof text - 65)
		n = sizeof text - 65;
	n += snprintf(text + n, 64, ": %s\n", strerror(error));
	if (write(status_fd, text, (size_t)n) < 0)
		_exit(2);
	_exit(1);
}

void write_file(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY | O_CLOEXEC);

	if (fd < 0 || write(fd, text, strlen(text)) < 0)
		die("cannot write '%s'", path);
	close(fd);
}

time_t now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec;
}

pid_t clone_into(unsigned long flags, int cgroup, int *pidfd)
{
	struct clone_args args = {
		.flags = flags | CLONE_PIDFD | (cgroup < 0 ? 0 : CLONE_INTO_CGROUP),
		.pidfd = (__u64)(uintptr_t)pidfd,
		.exit_signal = SIGCHLD,
		.cgroup = (__u64)(cgroup < 0 ? 0 : cgroup),
	};

	return (pid_t)syscall(SYS_clone3, &args, sizeof args);
}

/* A message with a single descriptor (unix(7), SCM_RIGHTS). */
struct parcel {
	union {
		struct cmsghdr head;
		char room[CMSG_SPACE(sizeof(int))];
	} control;
	char byte;
	struct iovec data;
	struct msghdr message;
};

static void wrap(struct parcel *p)
{
	memset(p, 0, sizeof *p);
	p->data = (struct iovec){ &p->byte, 1 };
	p->message.msg_iov = &p->data;
	p->message.msg_iovlen = 1;
	p->message.msg_control = &p->control;
	p->message.msg_controllen = sizeof p->control;
}

void send_fd(int socket, int fd)
{
	struct parcel p;

	wrap(&p);
	struct cmsghdr *head = CMSG_FIRSTHDR(&p.message);

	head->cmsg_level = SOL_SOCKET;
	head->cmsg_type = SCM_RIGHTS;
	head->cmsg_len = CMSG_LEN(sizeof fd);
	memcpy(CMSG_DATA(head), &fd, sizeof fd);
	if (sendmsg(socket, &p.message, MSG_NOSIGNAL) != 1)
		die("cannot send a descriptor");
}

int receive_fd(int socket)
{
	struct parcel p;
	int fd;

	wrap(&p);
	if (recvmsg(socket, &p.message, MSG_CMSG_CLOEXEC) != 1)
		return -1;
	struct cmsghdr *head = CMSG_FIRSTHDR(&p.message);

	if (!head || head->cmsg_type != SCM_RIGHTS)
		return -1;
	memcpy(&fd, CMSG_DATA(head), sizeof fd);
	return fd;
}

static ssize_t read_file(const char *path, char *buf, size_t size)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t n = fd < 0 ? -1 : read(fd, buf, size - 1);

	if (fd >= 0)
		close(fd);
	buf[n < 0 ? 0 : n] = 0;
	return n;
}

/* The pid of a process; -1 if it has ended and was waited for. */
static pid_t find_pid(int pidfd)
{
	char text[1024], name[64];

	snprintf(name, sizeof name, "/proc/self/fdinfo/%d", pidfd);
	if (read_file(name, text, sizeof text) < 0)
		die("cannot read '%s'", name);
	char *field = strstr(text, "Pid:");

	return field ? atoi(field + 4) : -1;
}

pid_t proc_pid(int pidfd)
{
	pid_t pid = find_pid(pidfd);

	if (pid <= 0) {
		errno = ESRCH;
		die("cannot find the pid of a process");
	}
	return pid;
}

bool write_pid(const char *path, int pidfd)
{
	char text[1024], name[64];
	pid_t pid = find_pid(pidfd);

	if (pid <= 0)
		return false;
	snprintf(name, sizeof name, "/proc/%d/stat", pid);
	if (read_file(name, text, sizeof text) < 0 && (errno == ENOENT || errno == ESRCH))
		return false;
	char *field = strrchr(text, ')');

	for (int i = 2; field && i < 22; i++)
		field = strchr(field + 1, ' ');
	if (!field)
		die("cannot read '%s'", name);
	int n = snprintf(name, sizeof name, "%d %llu\n", pid, strtoull(field, NULL, 10));
	int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);

	if (fd < 0 || write(fd, name, (size_t)n) != n)
		die("cannot write '%s'", path);
	close(fd);
	return true;
}
