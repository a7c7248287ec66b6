/* filetimes DIRECTORY COUNT MEGABYTES: the times of common file operations there, in ms.
 *
 * Each line is a name and a number. The files are read and listed with the caches of the kernel filled and,
 * as root, dropped. */
#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

static double begun;
static char piece[1 << 16];

static double now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec * 1e3 + (double)t.tv_nsec / 1e6;
}

static void begin(void)
{
	begun = now();
}

static void end(const char *what)
{
	printf("%s %.1f\n", what, now() - begun);
	fflush(stdout);
}

static void fail(const char *what)
{
	perror(what);
	exit(1);
}

static const char *name(int n)
{
	static char text[32];

	snprintf(text, sizeof text, "file%d", n);
	return text;
}

static void drop(void)
{
	int fd = open("/proc/sys/vm/drop_caches", O_WRONLY);

	sync();
	if (fd >= 0 && write(fd, "3", 1) < 0)
		fail("drop_caches");
	if (fd >= 0)
		close(fd);
}

static void create(int count)
{
	for (int i = 0; i < count; i++) {
		int fd = open(name(i), O_WRONLY | O_CREAT | O_EXCL, 0644);

		if (fd < 0 || write(fd, piece, 100) != 100 || close(fd))
			fail(name(i));
	}
}

static void look(int count)
{
	struct stat st;

	for (int i = 0; i < count; i++)
		if (stat(name(i), &st))
			fail(name(i));
}

static void read_all(int count)
{
	for (int i = 0; i < count; i++) {
		int fd = open(name(i), O_RDONLY);

		if (fd < 0 || read(fd, piece, sizeof piece) != 100 || close(fd))
			fail(name(i));
	}
}

static void list(void)
{
	DIR *d = opendir(".");

	while (d && readdir(d))
		;
	if (!d || closedir(d))
		fail(".");
}

static void stream(int megabytes, int flags)
{
	int fd = open("large", flags, 0644);

	for (int i = 0; i < megabytes * 16; i++) {
		ssize_t n = flags == O_RDONLY ? read(fd, piece, sizeof piece) :
						write(fd, piece, sizeof piece);
		if (n != sizeof piece)
			fail("large");
	}
	if (fd < 0 || (flags != O_RDONLY && fsync(fd)) || close(fd))
		fail("large");
}

int main(int argc, char **argv)
{
	int count = argc > 3 ? atoi(argv[2]) : 0, megabytes = argc > 3 ? atoi(argv[3]) : 0;

	if (argc < 4 || chdir(argv[1]))
		fail("usage: filetimes DIRECTORY COUNT MEGABYTES");
	begin(), create(count), end("create");
	begin(), look(count), end("stat");
	begin(), read_all(count), end("read");
	begin(), list(), end("list");
	drop();
	begin(), list(), end("list-cold");
	begin(), look(count), end("stat-cold");
	begin(), read_all(count), end("read-cold");
	begin();
	for (int i = 0; i < count; i++)
		if (unlink(name(i)))
			fail(name(i));
	end("unlink");
	begin(), stream(megabytes, O_WRONLY | O_CREAT | O_TRUNC), end("write-large");
	drop();
	begin(), stream(megabytes, O_RDONLY), end("read-large-cold");
	begin(), stream(megabytes, O_RDONLY), end("read-large");
	return unlink("large") ? 1 : 0;
}
