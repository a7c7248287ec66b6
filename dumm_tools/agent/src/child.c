/* A program's process until exec: terminal, user, directory, environment. */
#include "child.h"
#include "account.h"
#include "machine.h"
#include "protocol.h"

static const char *const DEFAULT_PATH =
	"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

static __attribute__((noreturn)) void die(const struct request *r, long error, const char *what,
					  const char *subject)
{
	u8 buf[FAILED_MAX];
	u32 number = (u32)-error;
	char *end = (char *)buf + sizeof buf, *p = (char *)buf + 4;

	memcpy(buf, &number, 4);
	p = str_copy(p, end, what);
	p = str_copy(p, end, subject);
	sys_write(r->tell, buf, (size_t)(p - (char *)buf));
	sys_exit(127);
}

void child_reset_signals(void)
{
	uint64_t none = 0;

	/* Only the signal mask needs resetting for exec: the agent has no handlers. */
	SYS4(rt_sigprocmask, SIG_SETMASK, &none, NULL, 8);
}

static void become(struct request *r, struct account *a)
{
	char *user = r->user[0] ? r->user : (char *)"root", *group = user;
	u32 *groups = r->groups;
	long count = 0, error;

	while (*group && *group != ':')
		group++;
	bool named = *group == ':';
	if (named)
		*group++ = 0;
	if (!account_find(user, a, &r->room))
		die(r, -ENOENT, "user ", user);
	groups[count++] = a->gid;
	if (named) {
		if (!account_group(group, &a->gid, &r->room))
			die(r, -ENOENT, "group ", group);
		groups[0] = a->gid;
	} else if (a->uid) {
		count += account_groups(a, groups + 1, GROUPS_MAX - 1, &r->room);
	}
	if ((error = SYS2(setgroups, count, groups)) < 0 || (error = SYS1(setgid, a->gid)) < 0 ||
	    (error = SYS1(setuid, a->uid)) < 0)
		die(r, error, "user ", user);
}

/* ---- environment ---- */

static char *joined(struct request *r, const char *name, const char *value)
{
	char *s = r->room.at;
	size_t n = str_len(name) + str_len(value) + 1;

	if (n > (size_t)(r->room.end - s))
		die(r, -ENOMEM, "exec ", name);
	r->room.at = str_copy(str_copy(s, s + n, name), s + n, value) + 1;
	return s;
}

static char **environment(struct request *r, const struct account *a)
{
	const char *defaults[] = { DEFAULT_PATH, joined(r, "HOME=", a->home),
				   joined(r, "USER=", a->name), joined(r, "LOGNAME=", a->name),
				   joined(r, "SHELL=", a->shell) };
	char **env = r->environment;
	int n = 0;

	for (char **given = r->env; *given && n < ENV_MAX - 8; given++)
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

static long exec_by_path(struct request *r, char **env)
{
	char **argv = r->argv, *path = r->path;
	const char *dir = env_get(env, "PATH");
	long error = -ENOENT;

	for (const char *s = argv[0]; *s; s++)
		if (*s == '/')
			return try_exec(argv[0], argv, env);
	if (!argv[0][0] || !dir)
		return error;
	for (;;) {
		char *p = path, *end = path + sizeof r->path;

		while (*dir && *dir != ':' && p + 1 < end)
			*p++ = *dir++;
		*p++ = '/';
		str_copy(p, end, argv[0]);
		/* Kernels before Linux 6.8 start a process of the host for each exec, found or not. */
		long e = SYS2(access, path, 0);

		if (e != -ENOENT && e != -ENOTDIR)
			e = try_exec(path, argv, env);

		if (e != -ENOENT && e != -ENOTDIR)
			error = e;
		if (*dir++ != ':')
			return error;
	}
}

static __attribute__((noreturn)) void child_exec(void *with)
{
	struct request *r = with;
	char **argv = r->argv, **env, *cwd = r->cwd;
	struct account a;
	long error;

	SYS0(setsid);
	machine_expose();
	if (r->flags & RUN_TTY)
		SYS3(ioctl, r->fds[0], TIOCSCTTY, 0);
	for (int i = 0; i < 3; i++)
		SYS3(dup3, r->fds[i], i, 0);
	become(r, &a);
	error = SYS1(chdir, cwd[0] == '~' && !cwd[1] ? a.home : cwd);
	if (error < 0 && cwd[0] == '~')
		error = SYS1(chdir, "/");
	if (error < 0)
		die(r, error, "directory ", cwd);
	env = environment(r, &a);
	if (argv[0][0] == '~' && !argv[0][1]) { /* the user's login shell */
		char *name = a.shell[0] ? a.shell : "/bin/sh", *base = name, *s;

		for (s = name; *s; s++)
			if (*s == '/')
				base = s + 1;
		argv[0] = joined(r, "-", base);
		child_reset_signals();
		error = SYS3(execve, name, argv, env);
		die(r, error, "exec ", name);
	}
	child_reset_signals();
	error = exec_by_path(r, env);
	die(r, error, "exec ", argv[0]);
}

long child_start(struct request *r, int tell, const int fds[3])
{
	long pid;

	r->tell = tell;
	memcpy(r->fds, fds, sizeof r->fds);
	if (agent.is_init) {
		/* Without a copy of our memory, which is dear in a UML guest: a fifth of fork and exec. But
		 * without CLONE_VFORK: a file system that does not answer must not stop us. */
		pid = sys_spawn(r->stack + sizeof r->stack, child_exec, r);
	} else {
		/* Processes that share their memory share their oom_score_adj, too (__set_oom_adj,
		 * fs/proc/base.c), and ours is not for programs: machine_protect. */
		pid = SYS0(fork);
		if (pid == 0)
			child_exec(r);
	}
	if (pid > 0 && agent.is_init)
		request_use(r, (int)pid);
	else
		request_drop(r);
	return pid;
}
