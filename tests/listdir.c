/* listdir DIRECTORY SIZE ACTION: read a directory, SIZE bytes at a time, and do something with each file
 * as it is read. Prints how many names were read, and how many of them again. */
#define _GNU_SOURCE
#include <dirent.h>
#include <err.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

static int seen[100000];

static void act(int fd, const char *action, const char *name)
{
	int n = atoi(name), file = -1;

	if (!strcmp(action, "remove") || (!strcmp(action, "remove-some") && n % 10 == 0))
		unlinkat(fd, name, 0);
	else if (!strcmp(action, "write") && (file = openat(fd, name, O_WRONLY)) >= 0)
		dprintf(file, "changed\n");
	else if (!strcmp(action, "rename") && n % 2) {
		char other[300];

		snprintf(other, sizeof other, "renamed-%s", name);
		renameat(fd, name, fd, other);
	}
	if (file >= 0)
		close(file);
}

int main(int argc, char **argv)
{
	static char buffer[1 << 16];
	size_t size = argc == 4 ? strtoul(argv[2], NULL, 10) : 0;
	int fd = size ? open(argv[1], O_RDONLY | O_DIRECTORY) : -1, names = 0, again = 0, calls = 0;
	long got;

	if (fd < 0)
		err(1, "%s", argv[1]);
	while ((got = syscall(SYS_getdents64, fd, buffer, size)) > 0) {
		if (++calls > 10000)
			errx(1, "no end");
		for (long at = 0; at < got;) {
			struct dirent64 *e = (void *)(buffer + at);

			at += e->d_reclen;
			if (e->d_name[0] < '0' || e->d_name[0] > '9')
				continue;
			names++;
			again += seen[atoi(e->d_name)]++;
			act(fd, argv[3], e->d_name);
		}
		if (!strcmp(argv[3], "create")) {
			char name[50];

			snprintf(name, sizeof name, "new-%d", calls);
			close(openat(fd, name, O_WRONLY | O_CREAT, 0644));
		}
	}
	if (got < 0)
		err(1, "getdents");
	printf("%d %d\n", names, again);
	return 0;
}
