/* rightness DIRECTORY [OTHER]: does the file system do what local ones do? A line for each check: NAME and
 * "ok", or the error. Root runs it, in an empty directory; some of the checks are made as user 1000. OTHER is a
 * directory that may be renamed, one of a lower layer. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/inotify.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <sys/xattr.h>
#include <unistd.h>

static struct stat st;

static void say(const char *name, bool good)
{
	printf("%s %s\n", name, good ? "ok" : errno ? strerror(errno) : "wrong");
	errno = 0;
}

static int made(const char *name, mode_t mode)
{
	int fd = open(name, O_RDWR | O_CREAT | O_EXCL, 0600);

	return fd < 0 || fchmod(fd, mode) ? -1 : fd;
}

static bool has(const char *name, mode_t mode, uid_t uid)
{
	return !lstat(name, &st) && (st.st_mode & 07777) == mode && st.st_uid == uid;
}

/* Whether a lock that we have is refused to another process. */
static bool is_locked(int fd, const char *name, int how)
{
	int status;

	if (fork() == 0) {
		struct flock all = { .l_type = F_WRLCK };
		int other = how ? open(name, O_RDWR) : -1;
		long r = how == LOCK_EX ? flock(other, LOCK_EX | LOCK_NB) :
					  fcntl(other < 0 ? fd : other, how ? how : F_SETLK, &all);

		_exit(r == 0);
	}
	return wait(&status) > 0 && status == 0;
}

static void owners(void)
{
	made("owned", 0644);
	say("chown", !chown("owned", 1000, 2000) && has("owned", 0644, 1000) && st.st_gid == 2000);
	say("setuid", !chmod("owned", 06755) && has("owned", 06755, 1000));
	say("lchown", !symlink("owned", "link") && !lchown("link", 5, 6) && has("link", 0777, 5));
	say("chown-clears-setuid", !chown("owned", 0, 0) && has("owned", 0755, 0));
	mkdir("shared", 0700);
	say("setgid-directory", !chown("shared", 0, 7) && !chmod("shared", 02777) &&
					!mkdir("shared/below", 0700) && !lstat("shared/below", &st) &&
					st.st_gid == 7 && st.st_mode & S_ISGID);
}

static void attributes(void)
{
	static const char capability[] = "\1\0\0\2\0\4\0\0\0\4\0\0\0\0\0\0\0\0\0\0"; /* net_bind_service */
	/* u::rw-, u:1000:r--, g::r--, m::r--, o::--- (linux/posix_acl_xattr.h) */
	static const char acl[] = "\2\0\0\0\1\0\6\0\377\377\377\377\2\0\4\0\350\3\0\0\4\0\4\0\377\377\377\377"
				  "\20\0\4\0\377\377\377\377\40\0\0\0\377\377\377\377";
	char back[64];

	made("marked", 0644);
	say("user-attribute", !setxattr("marked", "user.colour", "red", 3, 0) &&
				      getxattr("marked", "user.colour", back, 64) == 3 &&
				      !memcmp(back, "red", 3));
	say("trusted-attribute", !setxattr("marked", "trusted.x", "y", 1, 0) &&
					 getxattr("marked", "trusted.x", back, 64) == 1);
	say("list-attributes", listxattr("marked", back, 64) > 0);
	say("capability", !setxattr("marked", "security.capability", capability, 20, 0) &&
				  getxattr("marked", "security.capability", back, 64) == 20 &&
				  !memcmp(back, capability, 20));
	say("acl", !setxattr("marked", "system.posix_acl_access", acl, sizeof acl - 1, 0) &&
			   !lstat("marked", &st) && (st.st_mode & 0777) == 0640);
	say("remove-attribute", !removexattr("marked", "user.colour") &&
					getxattr("marked", "user.colour", back, 64) < 0 && errno == ENODATA);
}

#define MOST 200000

/* Writes, holes, truncations and mappings at random places, as in fsx: the file has what a copy of it
 * in memory has. */
static bool same_as_memory(void)
{
	static char copy[MOST], back[MOST];
	int fd = made("random", 0644);
	size_t size = 0;
	unsigned seed = 1;

	for (int i = 0; i < 2000; i++) {
		size_t at = (size_t)rand_r(&seed) % (MOST - 9000), n = (size_t)rand_r(&seed) % 9000 + 1;
		size_t page = at & ~(size_t)4095, end = at + n < size ? at + n : size;
		char *map;

		switch (rand_r(&seed) % 4) {
		case 0:
			memset(copy + at, i, n);
			size = at + n > size ? at + n : size;
			if (pwrite(fd, copy + at, n, (off_t)at) != (ssize_t)n)
				return false;
			break;
		case 1:
			if (rand_r(&seed) % 8)
				continue;
			memset(copy + at, 0, MOST - at);
			size = at;
			if (ftruncate(fd, (off_t)size))
				return false;
			break;
		case 2:
			if (end <= at)
				continue;
			map = mmap(NULL, end - page, PROT_READ | PROT_WRITE, MAP_SHARED, fd, (off_t)page);
			if (map == MAP_FAILED || memcmp(map, copy + page, end - page))
				return false;
			memset(copy + at, ~i, end - at);
			memset(map + (at - page), ~i, end - at);
			munmap(map, end - page);
			break;
		default:
			if (pread(fd, back, MOST, 0) != (ssize_t)size || memcmp(copy, back, size))
				return false;
		}
	}
	return !fstat(fd, &st) && (size_t)st.st_size == size;
}

static bool direct(void)
{
	static char data[8192] __attribute__((aligned(4096)));
	int fd = open("direct", O_RDWR | O_CREAT | O_DIRECT, 0600);
	int other = open("direct", O_RDONLY);
	char back[8] = "";

	memset(data, 'd', sizeof data);
	return fd >= 0 && pwrite(fd, data, 8192, 4096) == 8192 && pread(other, back, 4, 8192) == 4 &&
	       !memcmp(back, "dddd", 4) && pread(fd, data, 4096, 0) == 4096 && !data[0];
}

/* A path of the maximum length, which is that without the final zero. */
static bool long_path(void)
{
	char path[4096], part[201];
	size_t n;

	if (!getcwd(path, sizeof path - 300))
		return false;
	memset(part, 'p', 200);
	part[200] = 0;
	for (n = strlen(path); n + 300 < 4095; n += 201) {
		snprintf(path + n, sizeof path - n, "/%s", part);
		if (mkdir(path, 0700))
			return false;
	}
	path[n] = '/';
	memset(path + n + 1, 'q', 4095 - n - 1);
	path[4095] = 0;
	memset(path + n + 1, 'q', 200);
	path[n + 201] = '/';
	int fd = -1;

	if (4095 - n - 1 > 255) {
		path[n + 201] = 0;
		if (mkdir(path, 0700))
			return false;
		path[n + 201] = '/';
	} else {
		path[n + 201] = 'q';
	}
	fd = open(path, O_RDWR | O_CREAT, 0600);
	return fd >= 0 && strlen(path) == 4095;
}

static void contents(void)
{
	int fd = made("data", 0644), other = made("copy", 0644);
	char back[8] = "", *map;

	say("sparse", !ftruncate(fd, 1 << 30) && pwrite(fd, "end", 3, (1 << 30) - 3) == 3 &&
			      !fstat(fd, &st) && st.st_blocks < 2048);
	map = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	say("mmap-shared", map != MAP_FAILED && memcpy(map, "mapped", 6) && !msync(map, 4096, MS_SYNC) &&
				   pread(fd, back, 6, 0) == 6 && !memcmp(back, "mapped", 6));
	map = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0);
	say("mmap-private", map != MAP_FAILED && memcpy(map, "hidden", 6) &&
				    pread(fd, back, 6, 0) == 6 && !memcmp(back, "mapped", 6));
	say("random-operations", same_as_memory());
	say("direct", direct());
	say("fallocate", !fallocate(fd, 0, 0, 1 << 16));
	say("copy-range", copy_file_range(fd, &(loff_t){ 0 }, other, NULL, 6, 0) == 6 &&
				  pread(other, back, 6, 0) == 6 && !memcmp(back, "mapped", 6));
	say("append", (fd = open("copy", O_WRONLY | O_APPEND)) >= 0 && !lseek(fd, 0, SEEK_SET) &&
			      write(fd, "more", 4) == 4 && !fstat(fd, &st) && st.st_size == 10);
	say("times", !utimensat(AT_FDCWD, "copy", (struct timespec[]){ { 5, 0 }, { 6, 7 } }, 0) &&
			     !lstat("copy", &st) && st.st_mtim.tv_sec == 6 && st.st_mtim.tv_nsec == 7);
	say("times-of-links", !symlink("copy", "link2") &&
				      !utimensat(AT_FDCWD, "link2", (struct timespec[]){ { 5, 0 }, { 6, 0 } },
						 AT_SYMLINK_NOFOLLOW) &&
				      !lstat("link2", &st) && st.st_mtim.tv_sec == 6);
	fd = made("unlinked", 0644);
	say("unlinked", !unlink("unlinked") && write(fd, "x", 1) == 1 && pread(fd, back, 1, 0) == 1 &&
				!fstat(fd, &st) && st.st_nlink == 0);
	say("tmpfile", (fd = open(".", O_TMPFILE | O_RDWR, 0600)) >= 0);
}

static void names(const char *other)
{
	char renamed[256];
	struct sockaddr_un name = { .sun_family = AF_UNIX, .sun_path = "socket" };
	int s = socket(AF_UNIX, SOCK_STREAM, 0), watch = inotify_init1(IN_NONBLOCK);

	made("one", 0600);
	made("two", 0644);
	say("hard-link", !link("one", "three") && !lstat("three", &st) && st.st_nlink == 2);
	say("rename-exchange", !renameat2(AT_FDCWD, "one", AT_FDCWD, "two", RENAME_EXCHANGE) &&
				       has("two", 0600, 0));
	say("rename-noreplace", renameat2(AT_FDCWD, "one", AT_FDCWD, "two", RENAME_NOREPLACE) < 0 &&
					errno == EEXIST);
	say("fifo", !mkfifo("fifo", 0640) && open("fifo", O_RDWR) >= 0);
	say("socket", !bind(s, (struct sockaddr *)&name, sizeof name) && !listen(s, 1) &&
			      !connect(socket(AF_UNIX, SOCK_STREAM, 0), (struct sockaddr *)&name,
				       sizeof name));
	say("device", !mknod("device", S_IFCHR | 0600, makedev(1, 3)));
	say("inotify", inotify_add_watch(watch, ".", IN_CREATE) >= 0 && made("new", 0600) >= 0 &&
			       poll(&(struct pollfd){ watch, POLLIN, 0 }, 1, 1000) == 1);
	say("rename-directory", !mkdir("d", 0755) && !mkdir("d/e", 0755) && !rename("d", "f") &&
					!stat("f/e", &st));
	say("long-path", long_path());
	if (other) {
		snprintf(renamed, sizeof renamed, "%s2", other);
		say("rename-master-directory", !rename(other, renamed));
	}
}

static void locks(void)
{
	struct flock all = { .l_type = F_WRLCK };
	int fd = made("locked", 0600);

	say("flock", !flock(fd, LOCK_EX) && is_locked(fd, "locked", LOCK_EX));
	say("record-lock", !fcntl(fd, F_SETLK, &all) && is_locked(fd, "locked", 0));
	all.l_type = F_UNLCK;
	fcntl(fd, F_SETLK, &all);
	all.l_type = F_WRLCK;
	say("ofd-lock", !fcntl(fd, F_OFD_SETLK, &all) && is_locked(fd, "locked", F_OFD_SETLK));
	close(fd);
	fd = open("locked", O_RDONLY);
	say("lease", !fcntl(fd, F_SETLEASE, F_RDLCK));
}

static void as_user(void)
{
	made("secret", 0600);
	made("roots", 0644);
	mkdir("sticky", 0);
	chmod("sticky", 01777);
	close(made("sticky/roots", 0666));
	chmod(".", 0777);
	if (fork() == 0) {
		int fd;

		if (setgid(1000) || setuid(1000))
			_exit(1);
		say("user-creates", (fd = made("own", 0600)) >= 0 && has("own", 0600, 1000));
		say("user-appends", (fd = open("own", O_WRONLY | O_APPEND)) >= 0 && write(fd, "x", 1) == 1);
		say("user-chmod", !chmod("own", 0644) && has("own", 0644, 1000));
		say("user-no-chown", chown("own", 0, 0) < 0 && errno == EPERM);
		say("user-no-read", open("secret", O_RDONLY) < 0 && errno == EACCES);
		say("user-no-write", open("roots", O_WRONLY) < 0 && errno == EACCES);
		say("user-sticky", unlink("sticky/roots") < 0 && errno == EPERM);
		say("user-acl", open("marked", O_RDONLY) >= 0 && open("marked", O_WRONLY) < 0);
		_exit(0);
	}
	wait(NULL);
	chmod("own", 04777);
	if (fork() == 0) {
		int fd;

		say("write-clears-setuid", !setuid(1001) && (fd = open("own", O_WRONLY)) >= 0 &&
						   write(fd, "x", 1) == 1 && has("own", 0777, 1000));
		_exit(0);
	}
	wait(NULL);
}

int main(int argc, char **argv)
{
	setvbuf(stdout, NULL, _IOLBF, 0);
	umask(0);
	if (argc < 2 || chdir(argv[1]))
		return 1;
	owners();
	attributes();
	contents();
	names(argc > 2 ? argv[2] : NULL);
	locks();
	as_user();
	return 0;
}
