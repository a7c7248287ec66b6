#include "root.h"
#include "userns.h"

#include <linux/mount.h>

#ifndef MOUNT_ATTR_RDONLY
#error "linux/mount.h is too old: Linux 5.12 headers or newer are needed"
#endif

static int clone_tree(const char *src)
{
	int fd = (int)syscall(SYS_open_tree, AT_FDCWD, src, OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC);

	if (fd < 0)
		die("cannot bind '%s'", src);
	return fd;
}

static void attach(int tree, const char *dst, unsigned long long attributes)
{
	struct mount_attr a = { .attr_set = attributes, .propagation = MS_PRIVATE };

	if (syscall(SYS_mount_setattr, tree, "", AT_EMPTY_PATH, &a, sizeof a))
		die("cannot protect '%s'", dst);
	if (syscall(SYS_move_mount, tree, "", AT_FDCWD, dst, MOVE_MOUNT_F_EMPTY_PATH))
		die("cannot mount '%s'", dst);
	close(tree);
}

static void make_parents(const char *path)
{
	char copy[4096];

	snprintf(copy, sizeof copy, "%s", path);
	for (char *s = copy + 1; *s; s++)
		if (*s == '/') {
			*s = 0;
			mkdir(copy, 0755);
			*s = '/';
		}
}

/* Create a mount point for `tree`, of the same type. */
static void make_place(int tree, const char *dst)
{
	struct stat st;

	make_parents(dst);
	if (fstat(tree, &st))
		die("cannot stat what goes to '%s'", dst);
	if (S_ISDIR(st.st_mode)) {
		if (mkdir(dst, 0755) && errno != EEXIST)
			die("cannot make '%s'", dst);
	} else {
		int fd = open(dst, O_WRONLY | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);

		if (fd < 0)
			die("cannot make '%s'", dst);
		close(fd);
	}
}

/* Sources are resolved before the new root is mounted, since it hides what is underneath. */
void build_root(struct step *steps, int n)
{
	static const unsigned long safe = MS_NOSUID | MS_NODEV;

	for (int i = 0; i < n; i++)
		if (strstr(steps[i].what, "bind") || !strcmp(steps[i].what, "dev"))
			steps[i].tree = clone_tree(steps[i].a);
		else if (strstr(steps[i].what, "mount"))
			steps[i].tree = atoi(steps[i].a);
	mode_t before = umask(022); /* a kernel without capabilities has to get through */

	leave_chroot();
	if (mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL))
		die("cannot make mounts private");
	if (mount("jail", "/proc", "tmpfs", safe | MS_NOEXEC, "size=1M,mode=755") || chdir("/proc"))
		die("cannot make the jail's root");
	for (int i = 0; i < n; i++) {
		struct step *s = &steps[i];
		const char *dst = s->b ? s->b + 1 : s->a + 1; /* relative to the new root */

		if (strstr(s->what, "bind") || strstr(s->what, "mount")) {
			make_place(s->tree, dst);
			attach(s->tree, dst, MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV |
			       (s->what[0] == 'r' ? MOUNT_ATTR_RDONLY : 0));
		} else if (!strcmp(s->what, "dev")) {
			/* A read-only mount does not prevent writing to devices, but keeps root in a lab
			 * of the host's root from changing their modes and owners. */
			make_place(s->tree, dst);
			attach(s->tree, dst, MOUNT_ATTR_NOSUID | MOUNT_ATTR_NOEXEC | MOUNT_ATTR_RDONLY);
		} else if (!strcmp(s->what, "tmpfs")) {
			dst = s->a + 1;
			make_parents(dst);
			mkdir(dst, 0755);
			if (mount("tmpfs", dst, "tmpfs", safe, s->b))
				die("cannot mount tmpfs on '%s'", dst);
		} else if (!strcmp(s->what, "proc")) {
			dst = s->a + 1;
			mkdir(dst, 0755);
			if (mount("proc", dst, "proc", safe | MS_NOEXEC | MS_RDONLY, "subset=pid"))
				die("cannot mount proc on '%s'", dst);
		} else if (!strcmp(s->what, "symlink")) {
			make_parents(dst);
			if (symlink(s->a, dst))
				die("cannot link '%s'", dst);
		} else if (!strcmp(s->what, "dir")) {
			make_parents(dst);
			mkdir(dst, 0755);
		}
	}
	/* pivot_root(2), "pivot_root(".", ".")": the old root ends up under the new one, and is unmounted. */
	if (syscall(SYS_pivot_root, ".", ".") || umount2(".", MNT_DETACH) || chdir("/"))
		die("cannot enter the jail");
	if (mount(NULL, "/", NULL, MS_REMOUNT | MS_BIND | MS_RDONLY | safe | MS_NOEXEC, NULL))
		die("cannot close the jail's root");
	umask(before);
}
