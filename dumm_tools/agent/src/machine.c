/* A guest with an init is a machine of its own: it has a name, an id and host keys that no other guest of
 * its master has, from its first boot on, and an agent that lives as long as the machine does. */
#include "machine.h"

#define OOM "/proc/self/oom_score_adj"
#define OMIT "/run/sendsigs.omit.d"
#define KEYGEN "/usr/bin/ssh-keygen"

static bool changed;

static bool is_known(void)
{
	static int known = -1;

	if (known < 0) {
		int fd = (int)sys_openat(agent.host, OWN_FILE, O_PATH | O_CLOEXEC, 0);

		known = fd >= 0;
		sys_close(&fd);
	}
	return known;
}

static long write_file(const char *path, int flags, int mode, const char *text)
{
	int fd = (int)sys_openat(AT_FDCWD, path, O_WRONLY | O_CLOEXEC | flags, mode);
	long r = fd < 0 ? fd : sys_write(fd, text, str_len(text));

	sys_close(&fd);
	return r;
}

void machine_own(char *payload, u32 length)
{
	char path[256], *end = path + sizeof path, *text = payload + str_len(payload) + 1;
	long r;

	if (text >= payload + length || is_known())
		return;
	str_copy(str_copy(path, end, payload), end, ".dumm");
	r = write_file(path, O_CREAT | O_TRUNC, 0644, text);
	if (r >= 0)
		r = SYS2(rename, path, payload); /* complete, or not at all */
	if (r < 0)
		complain(payload, r);
	changed = true;
}

/* Run a program and return its wait status, or a negative errno. */
static long run(const char *const *argv)
{
	static const char *const env[] = { "HOME=/root", "PATH=/usr/sbin:/usr/bin:/sbin:/bin", NULL };
	int status = 0;
	long pid = SYS0(fork), r;

	if (pid == 0) {
		int null = (int)sys_open("/dev/null", O_RDWR);

		for (int i = 0; i < 3; i++)
			SYS3(dup3, null, i, 0);
		SYS3(execve, argv[0], argv, env);
		sys_exit(127);
	}
	r = pid < 0 ? pid : SYS4(wait4, pid, &status, 0, NULL);
	return r < 0 ? r : status;
}

void machine_keys(char *payload, u32 length)
{
	static const char *const argv[] = { KEYGEN, "-A", NULL };
	char path[300], *end = path + sizeof path;
	int fd = is_known() ? -1 : (int)sys_open(KEYGEN, O_PATH);

	if (fd < 0)
		return;
	sys_close(&fd);
	for (char *name = payload; name < payload + length; name += str_len(name) + 1) {
		char *p = str_copy(str_copy(path, end, "/etc/ssh/"), end, name);

		SYS1(unlink, path);
		str_copy(p, end, ".pub");
		SYS1(unlink, path);
	}
	if (run(argv))
		complain(KEYGEN, -EIO);
	changed = true;
}

void machine_known(void)
{
	if (changed)
		write_host(OWN_FILE, "");
}

void machine_set_apart(int pid)
{
	int context = (int)SYS2(fsopen, "cgroup2", FSOPEN_CLOEXEC), root = -1, procs = -1;
	char number[16];

	if (context >= 0 && SYS5(fsconfig, context, FSCONFIG_CMD_CREATE, NULL, NULL, 0) >= 0)
		root = (int)SYS3(fsmount, context, FSMOUNT_CLOEXEC, 0);
	if (root >= 0) {
		SYS3(mkdirat, root, "dumm-agent", 0755);
		procs = (int)sys_openat(root, "dumm-agent/cgroup.procs", O_WRONLY | O_CLOEXEC, 0);
	}
	if (procs >= 0) {
		str_decimal(number, number + sizeof number, (u32)pid);
		sys_write(procs, number, str_len(number));
	}
	sys_close(&procs);
	sys_close(&root);
	sys_close(&context);
}

void machine_protect(void)
{
	char number[16], *end = number + sizeof number;

	write_file(OOM, 0, 0, "-1000");
	/* sendsigs of the System V init kills all others, and waits 10 s for those that stay. */
	sys_mkdir(OMIT, 0755);
	str_copy(str_decimal(number, end, (u32)SYS0(getpid)), end, "\n");
	write_file(OMIT "/dumm-agent", O_CREAT | O_TRUNC, 0644, number);
}

void machine_expose(void)
{
	if (!agent.is_init)
		write_file(OOM, 0, 0, "0");
}
