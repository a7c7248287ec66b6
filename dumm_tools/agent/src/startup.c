/* The startup program of a guest: a script of the lab, or the command of an image. */
#include "startup.h"
#include "child.h"
#include "log.h"

#define LOG_FILE "run/uml/startup.log"
#define STATE_FILE "run/uml/startup"
/* The length of a script's first line (BINPRM_BUF_SIZE, include/uapi/linux/binfmts.h). */
#define FIRST_LINE_MAX 256

static struct {
	u32 how;
	u8 *payload;		/* NULL: there is none */
	u32 size;
	char *script;		/* in memory until it runs */
	u32 length;
	int pid, out, report;
	bool begun, runs;	/* its time has come; it has been executed */
	u32 refused;		/* the exit status of a program that was not */
	char state[16];
} startup = { .out = -1, .report = -1, .state = "none" };

static void set_state(const char *what)
{
	str_copy(startup.state, startup.state + sizeof startup.state, what);
	/* Not in place: a kernel without capabilities may not open what exists (hostfs_permission). */
	write_host(STATE_FILE ".new", what);
	SYS4(renameat, agent.host, STATE_FILE ".new", agent.host, STATE_FILE);
}

static void set_status(u32 status)
{
	char text[16] = "failed ";

	str_decimal(text + str_len(text), text + sizeof text, status);
	set_state(status ? text : "done");
}

static void say(const char *what, long error)
{
	char line[FAILED_MAX + 32], *end = line + sizeof line;
	char *p = str_copy(str_copy(str_copy(line, end, "dumm-agent: "), end, what), end, ": errno ");

	p = str_copy(str_decimal(p, end, (u32)-error), end, "\n");
	log_write(line, (u32)(p - line));
}

void startup_take(u32 how, u8 *request, u32 n)
{
	long r;

	startup.how = how;
	if (how & STARTUP_SCRIPT) {
		int fd = (int)sys_openat(agent.host, STARTUP_FILE, O_RDONLY | O_CLOEXEC, 0);

		startup.script = mem_map(STARTUP_MAX + 1);
		r = fd < 0 ? fd : startup.script ? read_whole(fd, startup.script, STARTUP_MAX + 1) : -ENOMEM;
		sys_close(&fd);
		if (r < 0) {
			complain("startup", r);
			return;
		}
		startup.length = (u32)r;
	}
	startup.payload = request;
	startup.size = n;
}

static long write_script(const char *path)
{
	int fd;
	long r;

	SYS1(unlink, path);
	fd = (int)sys_openat(AT_FDCWD, path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0700);
	r = fd < 0 ? fd : sys_write(fd, startup.script, startup.length);
	sys_close(&fd);
	return r < 0 ? r : r < (long)startup.length ? -ENOSPC : 0;
}

/* Obey the first line as execve(2) does: the kernel itself would refuse where /run is mounted noexec. A
 * script without one is run by the shell. */
static void find_interpreter(struct request *r)
{
	static char line[FIRST_LINE_MAX], *words[5];
	char *p = line, *path = r->argv[0];
	int n = 1; /* one place is left for a shell */

	memcpy(line, startup.script, sizeof line - 1);
	while (*p && *p != '\n')
		p++;
	*p = 0;
	if (!str_starts(line, "#!")) {
		if (str_starts(line, "\177ELF"))
			return;
		words[n++] = "/bin/sh";
	} else {
		while (p > line && (p[-1] == ' ' || p[-1] == '\t'))
			*--p = 0;
		for (p = line + 2; *p == ' ' || *p == '\t'; p++)
			;
		words[n++] = p;
		while (*p && *p != ' ' && *p != '\t')
			p++;
		while (*p == ' ' || *p == '\t')
			*p++ = 0;
		if (*p)
			words[n++] = p;
	}
	words[n++] = path;
	words[n] = NULL;
	r->argv = words + 1;
}

static long launch(void)
{
	int out[2] = { -1, -1 }, tell[2] = { -1, -1 }, null = (int)sys_open("/dev/null", O_RDWR);
	struct request *r = NULL;
	long error = request_take(startup.payload, startup.size, &r);

	if (!error && startup.how & STARTUP_SCRIPT && !(error = write_script(r->argv[0])))
		find_interpreter(r);
	if (!error && !(error = SYS2(pipe2, out, O_CLOEXEC)))
		error = SYS2(pipe2, tell, O_CLOEXEC | O_NONBLOCK);
	if (!error) {
		long pid = child_start(r, tell[1], (int[]){ null, out[1], out[1] });

		r = NULL;
		if (pid < 0)
			error = pid;
		else
			startup.pid = (int)pid;
	}
	if (r)
		request_drop(r);
	sys_close(&null);
	sys_close(&out[1]);
	sys_close(&tell[1]);
	startup.out = out[0];
	startup.report = tell[0];
	if (out[0] >= 0)
		SYS3(fcntl, out[0], F_SETFL, O_NONBLOCK);
	mem_unmap(startup.script, STARTUP_MAX + 1);
	startup.script = NULL;
	return error;
}

void startup_run(void)
{
	long error;

	if (!startup_is_waiting())
		return;
	startup.begun = true;
	log_open(LOG_FILE);
	if ((error = launch()) < 0) {
		say("startup", error);
		set_status(126);
	} else {
		set_state("running");
	}
}

bool startup_is_waiting(void)
{
	return startup.payload && !startup.begun;
}

bool startup_is_over(void)
{
	return !startup.payload ||
	       (startup.begun && (!startup.pid || (startup.how & STARTUP_SERVICE && startup.runs)));
}

const char *startup_state(void)
{
	return startup.state;
}

int startup_output(void)
{
	return startup.out;
}

int startup_report(void)
{
	return startup.report;
}

void startup_drain(void)
{
	static u8 buf[16384];

	/* Daemons that it has started may write as long as the guest runs. */
	for (int turns = 0; startup.out >= 0 && turns < 8; turns++) {
		long n = sys_read(startup.out, buf, sizeof buf);

		if (n == -EAGAIN || n == -EINTR)
			return;
		if (n <= 0)
			sys_close(&startup.out);
		else
			log_write(buf, (u32)n);
	}
}

void startup_started(void)
{
	u8 buf[FAILED_MAX + 1];
	long n = startup.report < 0 ? -EAGAIN : sys_read(startup.report, buf, sizeof buf - 1);
	int error;

	if (n == -EAGAIN)
		return;
	sys_close(&startup.report);
	startup.runs = n <= 4;
	if (n == 0)
		request_left(startup.pid);
	if (startup.runs)
		return;
	buf[n] = 0;
	memcpy(&error, buf, 4);
	say((char *)buf + 4, -error);
	startup.refused = error == ENOENT || error == ENOTDIR ? 127 : 126;
}

void startup_reap(int pid, int status)
{
	if (!pid || pid != startup.pid)
		return;
	startup.pid = 0;
	startup_started();
	startup_drain();
	if (startup.refused)
		set_status(startup.refused);
	else
		set_status(status & 0x7f ? 128 + (u32)(status & 0x7f) : (u32)status >> 8 & 0xff);
}
