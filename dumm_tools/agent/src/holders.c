/* Processes that use the root file system before a change: they are not told of the change, and do not
 * notice it.
 */
#include "holders.h"
#include "process.h"

static u32 old_root; /* the mount, as in /proc/PID/fdinfo */

void holders_of(u32 mount)
{
	old_root = mount;
}

/* The contents of a file about a process, or of a link. */
static bool contents(const char *pid, const char *name, bool link, char *buf, size_t size)
{
	long n = link ? SYS3(readlink, process_path(pid, name), buf, size - 1) :
			process_read(pid, name, buf, size);

	buf[n < 0 ? 0 : n] = 0;
	return n > 0;
}

static bool is_in_old(const char *pid, const char *name)
{
	struct statx s;

	return SYS5(statx, AT_FDCWD, process_path(pid, name), AT_NO_AUTOMOUNT, STATX_MNT_ID, &s) >= 0 &&
	       (u32)s.stx_mnt_id == old_root;
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
	else if (each_number(process_path(pid, "fdinfo"), is_open_in_old, (void *)pid, buf, sizeof buf))
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
