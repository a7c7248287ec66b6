/* A program's process between fork and exec: terminal, user, directory, environment. */
#include "child.h"
#include "account.h"
#include "machine.h"
#include "protocol.h"

#define ENV_MAX 4096

static const char *const DEFAULT_PATH =
	"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

static int tell_fd;

/* ---- requests ---- */

/* Split n bytes of NUL-terminated strings into an array; its length, or -1 if it is too small. */
static int split(u8 *p, u32 n, char **out, int max)
{
	int count = 0;
	u8 *end = p + n;

	while (p < end) {
		if (count == max - 1)
			return -1;
		out[count++] = (char *)p;
		p += str_len((char *)p) + 1;
	}
	out[count] = NULL;
	return count;
}

long child_parse(u8 *payload, u32 n, struct request *r)
{
	static char *strings[IN_MAX / 2];

	if (n < 8 || payload[n - 1])
		return -EINVAL;
	int argc = payload[5] | payload[6] << 8;
	int count = split(payload + 7, n - 7, strings, IN_MAX / 2);

	if (count < 0)
		return -E2BIG;
	if (argc < 1 || count < 2 + argc)
		return -EINVAL;
	r->flags = payload[0];
	r->rows = (u16)(payload[1] | payload[2] << 8);
	r->cols = (u16)(payload[3] | payload[4] << 8);
	r->user = strings[0];
	r->cwd = strings[1];
	/* The environment follows the arguments: shift the arguments down over cwd, which leaves one
	 * place before them for a shell. */
	r->env = strings + 2 + argc;
	r->argv = strings + 1;
	for (int i = 0; i < argc; i++)
		r->argv[i] = strings[i + 2];
	r->argv[argc] = NULL;
	return 0;
}

/* ---- from fork to exec ---- */

static __attribute__((noreturn)) void die(long error, const char *what, const char *subject)
{
	u8 buf[FAILED_MAX];
	u32 number = (u32)-error;
	char *end = (char *)buf + sizeof buf, *p = (char *)buf + 4;

	memcpy(buf, &number, 4);
	p = str_copy(p, end, what);
	p = str_copy(p, end, subject);
	sys_write(tell_fd, buf, (size_t)(p - (char *)buf));
	sys_exit(127);
}

void child_reset_signals(void)
{
	uint64_t none = 0;

	/* Only the signal mask needs resetting for exec: the agent has no handlers. */
	SYS4(rt_sigprocmask, SIG_SETMASK, &none, NULL, 8);
}

static void become(char *user, struct account *a)
{
	static u32 groups[256];
	char *group = user;
	long count = 0, error;

	while (*group && *group != ':')
		group++;
	bool named = *group == ':';
	if (named)
		*group++ = 0;
	if (!account_find(user, a))
		die(-ENOENT, "user ", user);
	groups[count++] = a->gid;
	if (named) {
		if (!account_group(group, &a->gid))
			die(-ENOENT, "group ", group);
		groups[0] = a->gid;
	} else if (a->uid) {
		count += account_groups(a, groups + 1, 255);
	}
	if ((error = SYS2(setgroups, count, groups)) < 0 || (error = SYS1(setgid, a->gid)) < 0 ||
	    (error = SYS1(setuid, a->uid)) < 0)
		die(error, "user ", user);
}

/* ---- environment ---- */

static char *joined(const char *name, const char *value)
{
	size_t n = str_len(name) + str_len(value) + 1;
	char *s = mem_map(n);

	if (!s)
		die(-ENOMEM, "exec ", name);
	str_copy(str_copy(s, s + n, name), s + n, value);
	return s;
}

static char **environment(char **given, const struct account *a)
{
	static char *env[ENV_MAX];
	const char *defaults[] = { DEFAULT_PATH, joined("HOME=", a->home), joined("USER=", a->name),
				   joined("LOGNAME=", a->name), joined("SHELL=", a->shell) };
	int n = 0;

	for (; *given && n < ENV_MAX - 8; given++)
		env[n++] = *given;
	env[n] = NULL;
	for (u32 i = 0; i < sizeof defaults / sizeof *defaults; i++) {
		char name[16], *p = name;

		for (const char *s = defaults[i]; *s != '='; s++)
			*p++ = *s;
		*p = 0;
		if (!env_get(env, name)) {
			env[n++] = (char *)defaults[i];
			env[n] = NULL;
		}
	}
	return env;
}

/* ---- exec ---- */

static long try_exec(const char *path, char **argv, char **env)
{
	long error = SYS3(execve, path, argv, env);

	if (error == -ENOEXEC) { /* as execvp(3): a script without #! is run by the shell */
		argv[-1] = "/bin/sh";
		argv[0] = (char *)path;
		error = SYS3(execve, "/bin/sh", argv - 1, env);
	}
	return error;
}

static long exec_by_path(char **argv, char **env)
{
	static char path[4096];
	const char *dir = env_get(env, "PATH");
	long error = -ENOENT;

	for (const char *s = argv[0]; *s; s++)
		if (*s == '/')
			return try_exec(argv[0], argv, env);
	if (!argv[0][0] || !dir)
		return error;
	for (;;) {
		char *p = path, *end = path + sizeof path;

		while (*dir && *dir != ':' && p + 1 < end)
			*p++ = *dir++;
		*p++ = '/';
		str_copy(p, end, argv[0]);
		long e = try_exec(path, argv, env);

		if (e != -ENOENT && e != -ENOTDIR)
			error = e;
		if (*dir++ != ':')
			return error;
	}
}

void child_exec(int tell, const struct request *r, int *fds)
{
	char *user = r->user, *cwd = r->cwd, **argv = r->argv, **env = r->env;
	struct account a;
	long error;

	tell_fd = tell;
	SYS0(setsid);
	machine_expose();
	if (r->flags & RUN_TTY)
		SYS3(ioctl, fds[0], TIOCSCTTY, 0);
	for (int i = 0; i < 3; i++)
		SYS3(dup3, fds[i], i, 0);
	become(user[0] ? user : (char[]){ "root" }, &a);
	error = SYS1(chdir, cwd[0] == '~' && !cwd[1] ? a.home : cwd);
	if (error < 0 && cwd[0] == '~')
		error = SYS1(chdir, "/");
	if (error < 0)
		die(error, "directory ", cwd);
	if (argv[0][0] == '~' && !argv[0][1]) { /* the user's login shell */
		char *name = a.shell[0] ? a.shell : "/bin/sh", *base = name, *s;

		for (s = name; *s; s++)
			if (*s == '/')
				base = s + 1;
		env = environment(env, &a);
		argv[0] = joined("-", base);
		child_reset_signals();
		error = SYS3(execve, name, argv, env);
		die(error, "exec ", name);
	}
	env = environment(env, &a);
	child_reset_signals();
	error = exec_by_path(argv, env);
	die(error, "exec ", argv[0]);
}
