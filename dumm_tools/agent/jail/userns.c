#include "userns.h"

#include <linux/securebits.h>

void leave_chroot(void)
{
	int fd = open("/proc/self/ns/mnt", O_RDONLY | O_CLOEXEC);

	if (fd >= 0) {
		setns(fd, CLONE_NEWNS); /* not permitted: then we could not leave a chroot */
		close(fd);
	}
}

/* Map the ids that we have ourselves into the namespace of process `pid`, one to one. */
static void map_ids(pid_t pid, const char *which)
{
	char path[64], map[8192], *p = map;
	unsigned long inside, outside, count;

	snprintf(path, sizeof path, "/proc/self/%s", which);
	FILE *own = fopen(path, "re");

	if (!own)
		die("cannot read '%s'", path);
	while (fscanf(own, "%lu %lu %lu", &inside, &outside, &count) == 3 &&
	       p < map + sizeof map - 64)
		p += sprintf(p, "%lu %lu %lu\n", inside, inside, count);
	fclose(own);
	snprintf(path, sizeof path, "/proc/%d/%s", pid, which);
	write_file(path, map);
}

/* Create things as `user`; keep capabilities when root becomes another user. */
static void own_as(uid_t user)
{
	if (prctl(PR_SET_SECUREBITS, SECBIT_NO_SETUID_FIXUP, 0, 0, 0) || setresuid(-1, user, -1))
		die("cannot become user %u", user);
}

/* A temporary process creates it and disables nested ones: /proc/sys/user applies to the writer's
 * namespace (namespaces(7)). */
int make_user_namespace(uid_t owner)
{
	int ready[2], go[2], fd, pidfd = -1;
	char path[64], c = 0;

	if (pipe2(ready, O_CLOEXEC) || pipe2(go, O_CLOEXEC))
		die("cannot make a pipe");
	int root = open("/", O_PATH | O_DIRECTORY | O_CLOEXEC);

	leave_chroot();
	if (owner)
		own_as(owner);
	pid_t pid = clone_into(CLONE_NEWUSER, -1, &pidfd);
	int error = errno;

	if (owner && pid != 0)
		own_as(0);
	errno = error;
	if (pid < 0)
		die("cannot make a user namespace");
	if (pid > 0 && (fchdir(root) || chroot(".")) && errno != EPERM)
		die("cannot go back to the root directory");
	if (pid == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		close(ready[0]);
		close(go[1]);
		if (write(ready[1], &c, 1) != 1 || read(go[0], &c, 1) != 1)
			_exit(1);
		write_file("/proc/sys/user/max_user_namespaces", "0");
		if (write(ready[1], &c, 1) != 1 || read(go[0], &c, 1) != 1)
			_exit(1);
		_exit(0);
	}
	close(ready[1]);
	close(go[0]);
	if (read(ready[0], &c, 1) != 1)
		_exit(1);
	pid_t seen = proc_pid(pidfd);

	map_ids(seen, "uid_map");
	map_ids(seen, "gid_map");
	if (write(go[1], &c, 1) != 1 || read(ready[0], &c, 1) != 1)
		_exit(1);
	snprintf(path, sizeof path, "/proc/%d/ns/user", seen);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		die("cannot open '%s'", path);
	close(go[1]);
	close(ready[0]);
	waitpid(pid, NULL, 0);
	close(pidfd);
	return fd;
}
