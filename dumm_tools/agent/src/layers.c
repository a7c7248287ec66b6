/* The root file system is changed as pivot_root(2) does it. A process keeps the old one if it is in another
 * mount namespace, or has a file of it open.
 */
#include "layers.h"
#include "holders.h"

#include <asm/statfs.h>
#include <linux/openat2.h>

#define POINTS_MAX 128
#define INFO_MAX (256 << 10)
#define SCHED_OTHER_ 0
#define SCHED_FIFO_ 1
#define PLACE "/.." /* the top of what is mounted on the root directory, which "/" does not lead to */

/* include/linux/statfs.h, not in the uapi headers */
#define ST_NOATIME 0x0400
#define ST_RELATIME 0x1000

/* Options of a mount: as statfs(2) shows them, and as mount_setattr(2) takes them. */
static const u16 options[] = {
	0x0001, MOUNT_ATTR_RDONLY, 0x0002, MOUNT_ATTR_NOSUID, 0x0004, MOUNT_ATTR_NODEV,
	0x0008, MOUNT_ATTR_NOEXEC, ST_NOATIME, MOUNT_ATTR_NOATIME, 0x0800, MOUNT_ATTR_NODIRATIME,
};

/* Something mounted in the root file system, not in another one there. */
struct point {
	const char *path;
	u32 id;
	int from, to; /* descriptors: its top, and the place for it in the new root file system */
};

static struct point points[POINTS_MAX];
static int point_count;

static u32 mount_of(int at, const char *path, u32 *mode)
{
	struct statx s;
	int flags = *path ? AT_NO_AUTOMOUNT : AT_NO_AUTOMOUNT | AT_EMPTY_PATH;

	if (SYS5(statx, at, path, flags, STATX_TYPE | STATX_MNT_ID, &s) < 0)
		return 0;
	if (mode)
		*mode = s.stx_mode & S_IFMT;
	return (u32)s.stx_mnt_id;
}

/* The next field of a line; it is terminated, and its escapes \ooo are replaced. */
static char *field(char **next)
{
	char *start = *next, *p = start, *out = start;

	while (*p && *p != ' ' && *p != '\n') {
		if (*p == '\\' && p[1] && p[2] && p[3]) {
			*out++ = (char)((p[1] - '0') * 64 + (p[2] - '0') * 8 + p[3] - '0');
			p += 4;
		} else {
			*out++ = *p++;
		}
	}
	if (*p == ' ')
		p++;
	*out = 0;
	*next = p;
	return start;
}

/* Find what is mounted in the mount `root`, and whether that is shared (proc_pid_mountinfo(5)). */
static long find_points(char *info, u32 root, bool *shared)
{
	int fd = (int)sys_open("/proc/self/mountinfo", O_RDONLY);
	long n = fd < 0 ? fd : read_whole(fd, info, INFO_MAX);

	sys_close(&fd);
	point_count = 0;
	if (n < 0)
		return n;
	if (n + 1 >= INFO_MAX)
		return -E2BIG;
	for (char *p = info, *end; p < info + n; p = end + 1) {
		for (end = p; *end && *end != '\n';)
			end++;
		*end = ' ';
		const char *id = field(&p), *parent = field(&p);

		field(&p);
		field(&p);
		const char *path = field(&p);
		u32 number = str_number(&id);

		field(&p);
		if (number == root) {
			for (const char *f = field(&p); *f && *f != '-'; f = field(&p))
				if (str_starts(f, "shared:"))
					*shared = true;
		} else if (str_number(&parent) == root && path[0] == '/' && path[1]) {
			if (point_count == POINTS_MAX)
				return -E2BIG;
			points[point_count++] = (struct point){ path, number, -1, -1 };
		}
	}
	return 0;
}

/* Open a place in the new root file system; links lead to nowhere else. */
static int open_below(int root, const char *path)
{
	struct open_how how = { O_PATH | O_CLOEXEC, 0, RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS };

	return (int)SYS4(openat2, root, path, &how, sizeof how);
}

/* Create a place for something, a directory or, instead of that, a file, with the directories above it. */
static int make_below(int root, const char *path, bool file)
{
	char part[4096];
	int at = open_below(root, "."), next;

	for (const char *end = path; at >= 0 && *end; path = end) {
		while (*path == '/')
			path++;
		for (end = path; *end && *end != '/';)
			end++;
		if (end == path || end - path >= (long)sizeof part)
			break;
		memcpy(part, path, (size_t)(end - path));
		part[end - path] = 0;
		next = open_below(at, part);
		if (file && !*end) {
			SYS3(unlinkat, at, part, AT_REMOVEDIR);
			SYS4(mknodat, at, part, S_IFREG | 0644, 0);
		} else if (next == -ENOENT) {
			SYS3(mkdirat, at, part, 0755);
		}
		if (next < 0 || file) {
			sys_close(&next);
			next = open_below(at, part);
		}
		sys_close(&at);
		at = next;
	}
	return at;
}

/* Open both ends of each move, so that nothing has to be looked up in between. The old root file system,
 * if it is hostfs, has the names of the new one by now: what is not there cannot be opened by name, even
 * if something is mounted on it. */
static long open_points(int root)
{
	for (struct point *p = points; p < points + point_count; p++) {
		u32 mode = 0, there = 0;
		bool made;

		p->to = open_below(root, p->path);
		if ((made = p->to == -ENOENT))
			p->to = make_below(root, p->path, false);
		if (p->to < 0)
			return p->to;
		p->from = (int)sys_open(p->path, O_PATH | O_NOFOLLOW);
		if (p->from < 0)
			return p->from;
		if (mount_of(p->from, "", &mode) != p->id)
			return -EBUSY; /* something is mounted on top of it */
		if (made && mode != S_IFDIR) {
			sys_close(&p->to);
			p->to = make_below(root, p->path, true);
		}
		mount_of(p->to, "", &there);
		if ((mode == S_IFDIR) != (there == S_IFDIR))
			return -ENOTDIR;
	}
	return 0;
}

static void close_points(void)
{
	for (struct point *p = points; p < points + point_count; p++) {
		sys_close(&p->from);
		sys_close(&p->to);
	}
}

static long move_point(int from, int to, const char *path)
{
	return SYS5(move_mount, from, "", to, path,
		    MOVE_MOUNT_F_EMPTY_PATH | (*path ? 0 : MOVE_MOUNT_T_EMPTY_PATH));
}

static void schedule(int policy)
{
	int priority = policy == SCHED_OTHER_ ? 0 : 1;

	SYS3(sched_setscheduler, 0, policy, &priority);
}

/* Unmount whatever is on top of the root directory, in the mount `root`. */
static void umount_above(u32 root)
{
	u32 top;

	while ((top = mount_of(AT_FDCWD, PLACE, NULL)) && top != root &&
	       SYS2(umount2, PLACE, MNT_DETACH) >= 0)
		;
}

/* Give the new root file system the options of the old one: those of its mount, like ro and noatime. */
static long keep_options(int root)
{
	struct mount_attr a = { .attr_clr = MOUNT_ATTR__ATIME };
	struct statfs s;
	long r = SYS2(statfs, "/", &s);

	if (r < 0)
		return r;
	for (const u16 *o = options; o < options + sizeof options / sizeof *options; o += 2)
		if (s.f_flags & o[0])
			a.attr_set |= o[1];
	if (!(s.f_flags & (ST_NOATIME | ST_RELATIME)))
		a.attr_set |= MOUNT_ATTR_STRICTATIME;
	return SYS5(mount_setattr, root, "", AT_EMPTY_PATH, &a, sizeof a);
}

/* Make another mount the root; the present one is on top of it then. */
static long pivot(int root)
{
	long r = SYS1(fchdir, root);

	return r < 0 ? r : SYS2(pivot_root, ".", ".");
}

/* Move all that is mounted to the new root file system, or nothing. */
static long move_points(int old)
{
	struct point *p = points;
	long r = 0;

	while (p < points + point_count && (r = move_point(p->from, p->to, "")) >= 0)
		p++;
	while (r < 0 && p-- > points)
		move_point(p->from, old, p->path + 1);
	return r;
}

/* No other process of a guest with one processor runs meanwhile, unless we have to wait. */
static long pivot_and_move(int new)
{
	int old = (int)sys_open("/", O_PATH | O_DIRECTORY);
	long r = old;

	schedule(SCHED_FIFO_);
	if (r >= 0 && (r = pivot(new)) >= 0) {
		if ((r = move_points(old)) >= 0)
			umount_above(mount_of(new, "", NULL)); /* the old one */
		else
			pivot(old);
	}
	SYS1(chdir, "/");
	schedule(SCHED_OTHER_);
	sys_close(&old);
	return r;
}

/* mount(2) refuses to mount a file system on itself, move_mount(2) does not. */
static long mount_virtiofs(const char *tag)
{
	int context = (int)SYS2(fsopen, "virtiofs", FSOPEN_CLOEXEC), mount = -1;
	long r = context;

	if (r >= 0 && (r = SYS5(fsconfig, context, FSCONFIG_SET_STRING, "source", tag, 0)) >= 0 &&
	    (r = SYS5(fsconfig, context, FSCONFIG_CMD_CREATE, NULL, NULL, 0)) >= 0) {
		mount = (int)SYS3(fsmount, context, FSMOUNT_CLOEXEC, 0);
		r = mount < 0 ? mount : move_point(mount, AT_FDCWD, "/");
	}
	sys_close(&mount);
	sys_close(&context);
	return r;
}

/* Mount the new root file system on top of the old one, where only PLACE leads to. */
static long mount_new(const char *tag, const char *directory)
{
	char path[80], *end = path + sizeof path;
	long r;

	if (!*tag)
		return sys_mount("root", "/", "hostfs", 0, "/guest");
	if ((r = mount_virtiofs(tag)) < 0)
		return r;
	str_copy(str_copy(path, end, PLACE "/"), end, directory);
	if ((r = sys_mount(path, "/", NULL, MS_BIND, NULL)) < 0)
		SYS2(umount2, PLACE, MNT_DETACH);
	return r;
}

long layers_change(const char *tag, const char *directory)
{
	u32 root = mount_of(AT_FDCWD, "/", NULL);
	char *info = mem_map(INFO_MAX);
	bool shared = false;
	int new = -1;
	long r = !info ? -ENOMEM : !root ? -ENOSYS : find_points(info, root, &shared);

	if (r >= 0) {
		/* Nothing can be moved out of a shared mount, and other namespaces need not see it. */
		sys_mount(NULL, "/", NULL, MS_PRIVATE, NULL);
		if ((r = mount_new(tag, directory)) >= 0) {
			new = (int)sys_open(PLACE, O_PATH | O_DIRECTORY);
			r = new < 0 ? new : mount_of(new, "", NULL) == root ? -EINVAL : open_points(new);
			if (r >= 0 && (r = keep_options(new)) >= 0)
				r = pivot_and_move(new);
			if (r >= 0)
				holders_of(root);
			else
				umount_above(root);
		}
		if (shared)
			sys_mount(NULL, "/", NULL, MS_SHARED, NULL);
	}
	close_points();
	sys_close(&new);
	if (info)
		mem_unmap(info, INFO_MAX);
	return r;
}
