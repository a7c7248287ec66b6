/* fileops [ROOT]: do file operations, one per line, and answer each with its errno.
 *
 *	OPERATION PATH [PATH] [NUMBER]...
 *
 * Paths are in hexadecimal, since they may contain any byte. With ROOT, it first changes its root
 * directory to that. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

static char *unhex(const char *text)
{
	size_t n = strlen(text) / 2;
	char *out = malloc(n + 1);
	for (size_t i = 0; i < n; i++) {
		unsigned byte;
		sscanf(text + 2 * i, "%2x", &byte);
		out[i] = (char)byte;
	}
	out[n] = 0;
	return out;
}

static int fill(const char *path, int flags, long at, long size, int byte)
{
	int fd = open(path, O_WRONLY | O_NONBLOCK | flags, 0644);
	if (fd < 0)
		return -1;
	char *data = malloc(size + 1);
	memset(data, byte, size);
	if (at >= 0 && lseek(fd, at, SEEK_SET) < 0)
		size = 0;
	int failed = write(fd, data, size) < 0 ? errno : 0;
	free(data);
	if (close(fd) < 0 && !failed)
		failed = errno;
	errno = failed;
	return failed ? -1 : 0;
}

/* Removes a whole tree, by its path. */
static int removed(const char *path)
{
	struct stat st;
	if (lstat(path, &st) < 0)
		return -1;
	if (!S_ISDIR(st.st_mode))
		return unlink(path);
	DIR *dir = opendir(path);
	if (!dir)
		return -1;
	for (struct dirent *e; (e = readdir(dir));) {
		if (!strcmp(e->d_name, ".") || !strcmp(e->d_name, ".."))
			continue;
		char below[4096];
		snprintf(below, sizeof below, "%s/%s", path, e->d_name);
		if (removed(below) < 0)
			break;
	}
	closedir(dir);
	return rmdir(path);
}

static int regular(const char *path)
{
	struct stat st;
	if (stat(path, &st) < 0)
		return errno == ENOENT;
	return S_ISREG(st.st_mode);
}

static int operation(const char *op, char *const *arg)
{
	const char *path = unhex(arg[0]);
	long a = atol(arg[1]), b = atol(arg[2]), c = atol(arg[3]);
	errno = 0;
	if (!strcmp(op, "create"))
		return fill(path, O_CREAT | O_EXCL, -1, a, (int)b);
	if (!strcmp(op, "write") || !strcmp(op, "append")) {
		if (!regular(path)) {
			errno = EINVAL;
			return -1;
		}
		return *op == 'a' ? fill(path, O_APPEND, -1, a, (int)b)
				  : fill(path, O_CREAT, c, a, (int)b);
	}
	if (!strcmp(op, "truncate"))
		return truncate(path, a);
	if (!strcmp(op, "resize")) {	/* truncate, unless it has this size */
		struct stat st;
		if (stat(path, &st) == 0 && S_ISREG(st.st_mode) && st.st_size == a)
			return 0;
		return truncate(path, a);
	}
	if (!strcmp(op, "chmod"))
		return fchmodat(AT_FDCWD, path, (mode_t)a, 0);
	if (!strcmp(op, "chown"))
		return lchown(path, (uid_t)a, (gid_t)b);
	if (!strcmp(op, "utime")) {
		struct timespec times[2] = { { a, b }, { a, b } };
		return utimensat(AT_FDCWD, path, times, AT_SYMLINK_NOFOLLOW);
	}
	if (!strcmp(op, "mkdir"))
		return mkdir(path, (mode_t)a);
	if (!strcmp(op, "mkfifo"))
		return mkfifo(path, (mode_t)a);
	if (!strcmp(op, "unlink"))
		return unlink(path);
	if (!strcmp(op, "rmdir"))
		return rmdir(path);
	if (!strcmp(op, "remove"))
		return removed(path);
	if (!strcmp(op, "rename"))
		return rename(path, unhex(arg[1]));
	if (!strcmp(op, "link"))
		return link(path, unhex(arg[1]));
	if (!strcmp(op, "symlink"))
		return symlink(unhex(arg[1]), path);
	if (!strcmp(op, "setxattr"))
		return lsetxattr(path, "user.test", arg[1], strlen(arg[1]), 0);
	errno = ENOSYS;
	return -1;
}

int main(int argc, char **argv)
{
	static char line[1 << 16];
	if (argc > 1 && (chroot(argv[1]) < 0 || chdir("/") < 0))
		return 1;
	umask(022);
	while (fgets(line, sizeof line, stdin)) {
		char *word[6] = { "", "", "", "", "", "" };
		int n = 0;
		for (char *w = strtok(line, " \n"); w && n < 6; w = strtok(NULL, " \n"))
			word[n++] = w;
		int failed = operation(word[0], word + 1) < 0;
		printf("%d\n", failed ? errno : 0);
		fflush(stdout);
	}
	return 0;
}
