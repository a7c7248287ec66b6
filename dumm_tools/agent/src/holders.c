/* Processes that use the root file system before a change: they are not told of the change, and do not
 * notice it.
 */
#include "holders.h"

static u32 old_root; /* the mount, as in /proc/PID/fdinfo */

void holders_of(u32 mount)
{
	old_root = mount;
}

/* "/proc/PID/NAME", which any process may have changed in the meantime. */
static const char *path_of(const char *pid, const char *name)
{
	static char path[300];
	char *end = path + sizeof path;

	str_copy(str_copy(str_copy(str_copy(path, end, "/proc/"), end, pid), end, "/"), end, name);
	return path;
}

/* The contents of such a file or link. */
static bool contents(const char *pid, const char *name, bool link, char *buf, size_t size)
{
	const char *path = path_of(pid, name);
	int fd = link ? -1 : (int)sys_open(path, O_RDONLY | O_NONBLOCK);
	long n = link ? SYS3(readlink, path, buf, size - 1) : fd < 0 ? fd : read_whole(fd, buf, size);

	sys_close(&fd);
	buf[n < 0 ? 0 : n] = 0;
	return n > 0;
}

static bool is_in_old(const char *pid, const char *name)
{
	struct statx s;

	return SYS5(statx, AT_FDCWD, path_of(pid, name), AT_NO_AUTOMOUNT, STATX_MNT_ID, &s) >= 0 &&
	       (u32)s.stx_mnt_id == old_root;
}

/* Call `visit` for each name in a directory that is a number, until it says true. */
static bool each_number(const char *directory, bool (*visit)(const char *, void *), void *with, u8 *buf,
			size_t size)
{
	int fd = (int)sys_open(directory, O_RDONLY | O_DIRECTORY);
	bool found = false;
	long n;

	while (fd >= 0 && !found && (n = SYS3(getdents64, fd, buf, size)) > 0)
		/* struct linux_dirent64: inode(8) offset(8) length(2) type(1) name */
		for (u8 *p = buf; !found && p + 19 < buf + n;) {
			u32 length = (u32)(p[16] | p[17] << 8);

			if (p[19] >= '0' && p[19] <= '9')
				found = visit((const char *)p + 19, with);
			if (!length)
				break;
			p += length;
		}
	sys_close(&fd);
	return found;
}

static const char *after(const char *text, const char *name)
{
	for (; *text; text++)
		if (str_starts(text, name))
			return text + str_len(name);
	return NULL;
}

static bool is_open_in_old(const char *number, void *with)
{
	char name[40] = "fdinfo/", text[256];

	str_copy(name + 7, name + sizeof name, number);
	if (!contents(with, name, false, text, sizeof text))
		return false;
	const char *flags = after(text, "flags:\t"), *mount = after(text, "mnt_id:\t");
	u32 octal = 0;

	for (; flags && *flags >= '0' && *flags <= '7'; flags++)
		octal = octal << 3 | (u32)(*flags - '0');
	/* A descriptor opened with O_PATH does not hold the file open. */
	return mount && !(octal & O_PATH) && str_number(&mount) == old_root;
}

struct report {
	char *text, *end, own[64]; /* our mount namespace */
};

static bool look_at(const char *pid, void *with)
{
	static u8 buf[2048];
	struct report *r = with;
	char text[64], command[32];
	const char *kind = NULL;

	/* Threads of the kernel have no program. */
	if (!contents(pid, "exe", true, text, sizeof text) ||
	    !contents(pid, "ns/mnt", true, text, sizeof text))
		return false;
	if (str_cmp(text, r->own))
		kind = " n ";
	else if (is_in_old(pid, "root") || is_in_old(pid, "cwd"))
		kind = " f ";
	else if (each_number(path_of(pid, "fdinfo"), is_open_in_old, (void *)pid, buf, sizeof buf))
		kind = " f ";
	if (!kind || r->end - r->text < 64 || !contents(pid, "comm", false, command, sizeof command))
		return false;
	r->text = str_copy(str_copy(str_copy(r->text, r->end, pid), r->end, kind), r->end, command);
	return false;
}

size_t holders_list(char *text, size_t size)
{
	static u8 buf[4096];
	struct report r = { text, text + size, "" };

	if (old_root && contents("self", "ns/mnt", true, r.own, sizeof r.own))
		each_number("/proc", look_at, &r, buf, sizeof buf);
	return (size_t)(r.text - text);
}
