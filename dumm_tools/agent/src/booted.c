/* Whether the guest's own init has come up, found out without any program of the guest.
 *
 * systemd reports it to $NOTIFY_SOCKET (sd_notify(3)), as to a container manager. Inits with a table, those
 * of System V and of busybox, wait for some of its commands before they go on: they have come up when PID 1
 * sleeps and none of these runs, twice in a row. OpenRC shows that it is at work by a directory.
 */
#include "booted.h"

#define NAME "@dumm-agent"	/* an abstract socket: there is no file */
#define ACTIONS_MAX 64
#define PIECE 4096

/* include/linux/socket.h, not in the uapi headers */
#define AF_UNIX 1
#define SOL_SOCKET 1
#define SO_PASSCRED 16
#define SCM_CREDENTIALS 2
#define SOCK_DGRAM 2
#define MSG_DONTWAIT 0x40
#define MSG_CMSG_CLOEXEC 0x40000000
#define CLOCK_MONOTONIC 1

static struct {
	enum { NONE, SYSTEMD, SYSV, BUSYBOX, OPENRC, OTHER } kind;
	int socket;
	bool up, ending;	/* what it has reported: systemd only, and any */
	bool begun;		/* an init with a table has run one of its commands */
	int quiet;		/* looks in a row at which none was running */
	uint64_t looked;	/* milliseconds */
	char *table;		/* inittab(5) */
} booted = { .socket = -1 };

/* ---- which init ---- */

/* The last component of a path without links. */
static const char *resolve(const char *path, char *buf, size_t size)
{
	char link[40] = "/proc/self/fd/";
	int fd = (int)sys_open(path, O_PATH);
	const char *base = buf;
	long n;

	if (fd < 0)
		return "";
	str_decimal(link + str_len(link), link + sizeof link, (u32)fd);
	n = SYS3(readlink, link, buf, size - 1);
	sys_close(&fd);
	buf[n > 0 ? n : 0] = 0;
	for (char *p = buf; *p; p++)
		if (*p == '/')
			base = p + 1;
	return base;
}

static bool is_script(const char *path)
{
	int fd = (int)sys_open(path, O_RDONLY);
	char head[2] = "";

	if (fd >= 0)
		sys_read(fd, head, 2);
	sys_close(&fd);
	return head[0] == '#' && head[1] == '!';
}

static int listen_to_systemd(void)
{
	struct {
		u16 family;
		char name[sizeof NAME - 1];
	} address = { AF_UNIX, NAME };
	size_t size = sizeof address.family + sizeof address.name;
	int fd = (int)SYS3(socket, AF_UNIX, SOCK_DGRAM | O_CLOEXEC | O_NONBLOCK, 0), on = 1;

	address.name[0] = 0;
	if (fd >= 0 && (SYS5(setsockopt, fd, SOL_SOCKET, SO_PASSCRED, &on, sizeof on) < 0 ||
			SYS3(bind, fd, &address, size) < 0))
		sys_close(&fd);
	return fd;
}

static void read_table(void)
{
	int fd = (int)sys_open("/etc/inittab", O_RDONLY);

	if (fd >= 0 && (booted.table = mem_map(PIECE * 16)))
		if (read_whole(fd, booted.table, PIECE * 16) < 0)
			booted.table[0] = 0;
	sys_close(&fd);
}

const char *booted_expect(const char *init)
{
	char path[1024];
	const char *base = resolve(init, path, sizeof path);

	booted.kind = OTHER;
	if (!str_cmp(base, "systemd")) {
		booted.socket = listen_to_systemd();
		if (booted.socket < 0) {
			complain("socket", booted.socket);
			return NULL;
		}
		booted.kind = SYSTEMD;
		return "NOTIFY_SOCKET=" NAME;
	}
	if (!str_cmp(base, "openrc-init"))
		booted.kind = OPENRC;
	else if (!str_cmp(base, "busybox"))
		booted.kind = BUSYBOX;
	else if (!str_cmp(base, "init") && !is_script(init))
		booted.kind = SYSV;
	if (booted.kind == SYSV || booted.kind == BUSYBOX)
		read_table();
	if (booted.kind == SYSV && !booted.table)
		booted.kind = OTHER;
	return NULL;
}

void booted_forget(void)
{
	booted.kind = NONE;
}

const char *booted_kind(void)
{
	static const char *const names[] = { "none", "systemd", "inittab", "inittab", "openrc", "other" };

	return names[booted.kind];
}

/* ---- systemd ---- */

int booted_messages(void)
{
	return booted.socket;
}

static bool has_line(const char *text, const char *line)
{
	for (;;) {
		size_t n = str_len(line);

		if (str_starts(text, line) && (!text[n] || text[n] == '\n'))
			return true;
		while (*text && *text != '\n')
			text++;
		if (!*text++)
			return false;
	}
}

void booted_take(void)
{
	for (;;) {
		static char text[PIECE];
		struct {
			size_t length;
			int level, type;
			struct { u32 pid, uid, gid, pad; } sender;
		} control = { 0 };
		struct { char *base; size_t length; } piece = { text, sizeof text - 1 };
		struct {
			void *name;
			size_t name_length;
			void *pieces;
			size_t count;
			void *control;
			size_t control_length, flags;
		} message = { NULL, 0, &piece, 1, &control, sizeof control, 0 };
		long n = SYS3(recvmsg, booted.socket, &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);

		if (n < 0)
			return;
		text[n] = 0;
		if (control.type != SCM_CREDENTIALS || control.sender.pid != 1)
			continue;
		if (has_line(text, "READY=1"))
			booted.up = true, booted.ending = false;
		if (has_line(text, "STOPPING=1"))
			booted.ending = true;
	}
}

/* ---- inits with a table ---- */

static long read_proc(const char *pid, const char *name, char *buf, size_t size)
{
	char path[48] = "/proc/", *end = path + sizeof path;
	int fd;
	long n;

	str_copy(str_copy(str_copy(path + str_len(path), end, pid), end, "/"), end, name);
	fd = (int)sys_open(path, O_RDONLY);
	n = fd < 0 ? fd : read_whole(fd, buf, size);
	sys_close(&fd);
	return n;
}

/* The fields of /proc/PID/stat (proc_pid_stat(5)) that matter. */
struct process {
	char state;
	u32 parent;
	bool has_reaped;	/* it has waited for a child: that one had page faults */
};

static bool read_stat(const char *pid, struct process *s)
{
	static char text[1024];
	char *p = text, *last = NULL;

	if (read_proc(pid, "stat", text, sizeof text) <= 0)
		return false;
	for (; *p; p++)
		if (*p == ')')
			last = p;
	if (!last || last[1] != ' ' || !last[2])
		return false;
	s->state = last[2];
	const char *q = last + 4;

	s->parent = str_number(&q);
	for (int skip = 0; skip < 7 && *q; q++) /* to cminflt, the 11th */
		skip += *q == ' ';
	s->has_reaped = str_number(&q) > 0;
	return true;
}

/* The words of a process's command line, separated by spaces. */
static void read_words(const char *pid, char *buf, size_t size)
{
	long n = read_proc(pid, "cmdline", buf, size);

	if (n < 0)
		n = 0;
	while (n && (!buf[n - 1] || buf[n - 1] == ' '))
		n--;
	buf[n] = 0;
	for (long i = 0; i < n; i++)
		if (!buf[i])
			buf[i] = ' ';
}

static bool ends_with(const char *text, const char *end)
{
	size_t n = str_len(text), m = str_len(end);

	return m && n >= m && !str_cmp(text + n - m, end) && (n == m || text[n - m - 1] == ' ');
}

/* Cut the next line off *text, and split it at the first three colons; NULL at the end. */
static char *next_entry(const char **text, char *line, size_t size, char **levels, char **action)
{
	while (*text && **text) {
		char *p = line, *process;
		int colons = 0;

		*levels = *action = process = line;
		for (; **text && **text != '\n'; (*text)++) {
			if (p + 1 == line + size)
				continue;
			*p = **text;
			if (*p == ':' && colons < 3) {
				*p = 0;
				*(++colons == 1 ? levels : colons == 2 ? action : &process) = p + 1;
			}
			p++;
		}
		if (**text)
			(*text)++;
		while (p > line && (p[-1] == ' ' || p[-1] == '\t'))
			p--;
		*p = 0;
		if (colons == 3 && line[0] != '#')
			return process;
	}
	return NULL;
}

static bool is_in(char c, const char *set)
{
	while (*set && *set != c)
		set++;
	return *set;
}

/* Reduce a command to the words that the process shows once a shell has executed it. */
static void strip_shell(char *command)
{
	char *to = command, quote = 0;

	for (char *from = command; *from; from++) {
		if (quote ? *from == quote : *from == '"' || *from == '\'') {
			quote = quote ? 0 : *from;
			continue;
		}
		if (!quote && is_in(*from, "<>|;&")) {
			while (to > command && to[-1] != ' ' && to[-1] != '\t') /* 2>&1 */
				to--;
			break;
		}
		*to++ = *from;
	}
	while (to > command && (to[-1] == ' ' || to[-1] == '\t'))
		to--;
	*to = 0;
}

/* Whether the words are a command of the table that the init waits for, at this runlevel. With no words:
 * whether there is one at all. */
static bool is_awaited(const char *words, char level)
{
	static char line[1024];
	const char *text = booted.table ? booted.table : "::sysinit:/etc/init.d/rcS\n";
	char *levels, *action, *process;

	while ((process = next_entry(&text, line, sizeof line, &levels, &action))) {
		if (str_cmp(action, "sysinit") && str_cmp(action, "bootwait") && str_cmp(action, "boot") &&
		    str_cmp(action, "wait") && str_cmp(action, "shutdown"))
			continue;
		if (level && *levels && !str_cmp(action, "wait") && !is_in(level, levels))
			continue;
		while (is_in(*process, "-+ \t") && *process)
			process++;
		if (!words ? str_cmp(action, "shutdown") : ends_with(words, process))
			return true;
		strip_shell(process);
		if (words && ends_with(words, process))
			return true;
	}
	return false;
}

/* The runlevel that init of System V shows, in "init [2]"; 0 while it has none. */
static char runlevel(const char *title)
{
	for (; *title; title++)
		if (title[0] == '[' && title[1] && title[2] == ']')
			return title[1];
	return 0;
}

/* Whether a child of PID 1 is a command that it waits for, or not executed yet. */
static bool is_at_work(const char *init, char level)
{
	static char entries[PIECE + 1], words[PIECE];
	int dir = (int)sys_open("/proc", O_RDONLY | O_DIRECTORY);
	bool found = false;
	long n;

	while (!found && (n = SYS3(getdents64, dir, entries, PIECE)) > 0)
		for (long at = 0; at + 20 <= n && !found; at += *(u16 *)(entries + at + 16)) {
			const char *pid = entries + at + 19; /* struct linux_dirent64 */
			struct process s;

			entries[n] = 0;
			if (!*(u16 *)(entries + at + 16))
				break;
			if (*pid < '1' || *pid > '9' || !read_stat(pid, &s) || s.parent != 1 || s.state == 'Z')
				continue;
			read_words(pid, words, sizeof words);
			/* (Init of busybox also waits for Enter under its own name. Without any words, it
			 * is just being executed, which takes long on a busy host.) */
			found = !*words || (str_cmp(words, init) ? is_awaited(words, level)
								 : s.state != 'S');
		}
	sys_close(&dir);
	return found;
}

static bool exists(const char *path)
{
	return SYS2(access, path, 0) == 0;
}

static bool openrc_is_up(void)
{
	char level[16] = "";
	int fd = (int)sys_open("/run/openrc/softlevel", O_RDONLY);

	if (fd >= 0)
		read_whole(fd, level, sizeof level);
	sys_close(&fd);
	return level[0] && !str_starts(level, "sysinit") && !str_starts(level, "boot") &&
	       !str_starts(level, "shutdown") && !str_starts(level, "reboot");
}

static bool table_is_done(void)
{
	static char title[PIECE];
	struct process s;
	char level = 0;

	if (!read_stat("1", &s) || s.state != 'S')
		return false;
	read_words("1", title, sizeof title);
	if (booted.kind == SYSV && (!(level = runlevel(title)) || level == '0' || level == '6'))
		return false;
	if (is_at_work(title, level)) {
		booted.begun = true;
		return false;
	}
	return booted.begun || s.has_reaped || !is_awaited(NULL, level);
}

static bool look(void)
{
	if (exists("/run/openrc/rc.starting") || exists("/run/openrc/rc.stopping"))
		return false;
	if (booted.kind == OPENRC)
		return openrc_is_up();
	return booted.kind == OTHER || table_is_done();
}

void booted_terminated(int sender)
{
	booted.ending |= sender == 1;
}

void booted_look_again(void)
{
	booted.quiet = 0;
}

bool booted_must_look(void)
{
	return booted.kind > SYSTEMD;
}

bool booted_init(void)
{
	struct { long seconds, nanoseconds; } t = { 0, 0 };

	if (booted.ending)
		return false;
	if (!booted_must_look())
		return booted.kind == NONE || booted.up;
	if (booted.quiet < 2) {
		SYS2(clock_gettime, CLOCK_MONOTONIC, &t);
		uint64_t ms = (uint64_t)t.seconds * 1000 + (uint64_t)t.nanoseconds / 1000000;

		if (booted.looked && ms < booted.looked + BOOTED_LOOK)
			return false;
		booted.looked = ms;
		booted.quiet = look() ? booted.quiet + 1 : 0;
	}
	return booted.quiet >= 2;
}
