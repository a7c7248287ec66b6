/* Reading /proc about the guest's processes. */
#include "process.h"

const char *process_path(const char *pid, const char *name)
{
	static char path[300];
	char *end = path + sizeof path;

	str_copy(str_copy(str_copy(str_copy(path, end, "/proc/"), end, pid), end, "/"), end, name);
	return path;
}

long process_read(const char *pid, const char *name, char *buf, size_t size)
{
	int fd = (int)sys_open(process_path(pid, name), O_RDONLY | O_NONBLOCK);
	long n = fd < 0 ? fd : read_whole(fd, buf, size);

	sys_close(&fd);
	return n;
}

bool process_stat(const char *pid, struct process *s)
{
	static char text[1024];
	char *p = text, *last = NULL;

	if (process_read(pid, "stat", text, sizeof text) <= 0)
		return false;
	for (; *p; p++)
		if (*p == ')')
			last = p;
	if (!last || last[1] != ' ' || !last[2])
		return false;
	s->state = last[2];
	const char *q = last + 4;

	s->parent = str_number(&q);
	for (int skip = 0; skip < 7 && *q; q++) /* to cminflt, the 11th */
		skip += *q == ' ';
	s->has_reaped = str_number(&q) > 0;
	return true;
}

void process_words(const char *pid, char *buf, size_t size)
{
	long n = process_read(pid, "cmdline", buf, size);

	if (n < 0)
		n = 0;
	while (n && (!buf[n - 1] || buf[n - 1] == ' '))
		n--;
	buf[n] = 0;
	for (long i = 0; i < n; i++)
		if (!buf[i])
			buf[i] = ' ';
}

bool each_number(const char *directory, bool (*visit)(const char *, void *), void *with, u8 *buf,
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
