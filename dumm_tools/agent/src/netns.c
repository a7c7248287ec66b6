/* The guest's other network namespaces: those of its processes, and those that ip-netns(8) has named. */
#include "netns.h"

#include <asm/stat.h>
#include <linux/netlink.h>
#include <linux/sched.h>

#ifndef SOCK_RAW
#define AF_NETLINK 16
#define SOCK_RAW 3
#define SOCK_CLOEXEC O_CLOEXEC
#endif
#ifndef SOCK_NONBLOCK
#define SOCK_NONBLOCK O_NONBLOCK
#endif

/* As many as a client looks into; a guest may have thousands. */
#define NAMESPACES_MAX 64

static struct {
	uint64_t inode;
	char path[64];
} known[NAMESPACES_MAX];
static u32 count;

static void note(const char *directory, const char *name, const char *rest)
{
	struct stat s;

	if (count == NAMESPACES_MAX ||
	    str_len(directory) + str_len(name) + str_len(rest) >= sizeof known[0].path)
		return;
	char *path = known[count].path, *end = path + sizeof known[0].path;

	str_copy(str_copy(str_copy(path, end, directory), end, name), end, rest);
	if (SYS2(stat, path, &s) < 0)
		return;
	for (u32 i = 0; i < count; i++)
		if (known[i].inode == s.st_ino)
			return;
	known[count++].inode = s.st_ino;
}

static void scan(const char *directory, const char *rest, bool only_numbers)
{
	static u8 buf[4096];
	int fd = (int)sys_open(directory, O_RDONLY | O_DIRECTORY);
	long n;

	while (fd >= 0 && count < NAMESPACES_MAX &&
	       (n = SYS3(getdents64, fd, buf, sizeof buf)) > 0) {
		/* struct linux_dirent64: inode(8) offset(8) length(2) type(1) name */
		for (u8 *p = buf; p + 19 < buf + n;) {
			u32 length = (u32)(p[16] | p[17] << 8);
			const char *name = (const char *)p + 19;

			if (only_numbers ? *name >= '1' && *name <= '9' : *name != '.')
				note(directory, name, rest);
			if (!length)
				break;
			p += length;
		}
	}
	sys_close(&fd);
}

int netns_own_socket(void)
{
	int size = 1 << 20;
	int s = (int)SYS3(socket, AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, NETLINK_ROUTE);

	SYS5(setsockopt, s, 1 /* SOL_SOCKET */, 33 /* SO_RCVBUFFORCE */, &size, sizeof size);
	return s;
}

long netns_socket(u32 number)
{
	if (number == 1) { /* the numbers stay the same while a client goes through them */
		count = 0;
		note("/proc/", "self", "/ns/net");
		scan("/run/netns/", "", false);
		scan("/proc/", "/ns/net", true);
	}
	if (number >= count)
		return -ENOENT;
	int own = (int)sys_open("/proc/self/ns/net", O_RDONLY);
	/* The guest may have put anything there, even a FIFO. */
	int there = (int)sys_open(known[number].path, O_RDONLY | O_NONBLOCK);
	long r = own < 0 ? own : there;

	if (r >= 0 && (r = SYS2(setns, there, CLONE_NEWNET)) == 0) {
		r = netns_own_socket();
		SYS2(setns, own, CLONE_NEWNET);
	}
	sys_close(&own);
	sys_close(&there);
	return r == -ENOENT ? -ESRCH : r;
}
