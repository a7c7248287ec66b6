/* The inits that a guest may have, and how far those have come that send no messages.
 *
 * Inits with a table, those of System V and of busybox, wait for some of its commands before they go on:
 * they have come up when PID 1 sleeps and none of these runs, twice in a row. OpenRC shows that it is at
 * work by a directory, also to Debian's table. runit has come up when its second stage is runsvdir.
 */
#include "inits.h"
#include "process.h"
#include "table.h"

#define PIECE 4096

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

enum init inits_kind(const char *path)
{
	char target[1024];
	const char *base = resolve(path, target, sizeof target);

	if (!str_cmp(base, "systemd"))
		return INIT_SYSTEMD;
	if (!str_cmp(base, "openrc-init"))
		return INIT_OPENRC;
	if (!str_cmp(base, "runit") || !str_cmp(base, "runit-init"))
		return INIT_RUNIT;
	if (!str_cmp(base, "busybox")) {
		table_read();
		return INIT_BUSYBOX;
	}
	return !str_cmp(base, "init") && !is_script(path) && table_read() ? INIT_SYSV : INIT_OTHER;
}

const char *inits_name(enum init kind)
{
	static const char *const names[] = { "none", "systemd", "inittab", "inittab", "openrc", "runit",
					     "other" };

	return names[kind];
}

/* The runlevel that init of System V shows, in "init [2]"; 0 while it has none. */
static char runlevel(const char *title)
{
	for (; *title; title++)
		if (title[0] == '[' && title[1] && title[2] == ']')
			return title[1];
	return 0;
}

static bool ends(char level)
{
	return level == '0' || level == '6';
}

struct view {
	const char *init; /* the words of PID 1 */
	char level;
	bool (*is)(const struct view *, const struct process *, const char *);
};

static bool is_child(const char *pid, void *with)
{
	static char words[PIECE];
	struct view *v = with;
	struct process s;

	if (!process_stat(pid, &s) || s.parent != 1 || s.state == 'Z')
		return false;
	process_words(pid, words, sizeof words);
	return v->is(v, &s, words);
}

/* Whether one of PID 1's children is what the view looks for. */
static bool has_child(struct view *v)
{
	static u8 buf[PIECE];

	return each_number("/proc", is_child, v, buf, sizeof buf);
}

/* Whether it is a program of this name. */
static bool runs(const char *words, const char *name)
{
	const char *base = words;

	for (; *words && *words != ' '; words++)
		if (*words == '/')
			base = words + 1;
	return str_starts(base, name) && (size_t)(words - base) == str_len(name);
}

/* Whether it is a command that PID 1 waits for, or not executed yet. (Init of busybox also waits for Enter
 * under its own name. Without any words, it is just being executed, which takes long on a busy host.) */
static bool is_awaited(const struct view *v, const struct process *s, const char *words)
{
	if (!*words || runs(words, "openrc"))
		return true;
	return str_cmp(words, v->init) ? table_awaits(words, v->level) : s->state != 'S';
}

static bool is_runsvdir(const struct view *v, const struct process *s, const char *words)
{
	(void)v, (void)s;
	return runs(words, "runsvdir");
}

static bool exists(const char *path)
{
	return SYS2(access, path, 0) == 0;
}

static bool can_run(const char *path)
{
	return SYS2(access, path, 1) == 0;
}

static void openrc_level(char *buf, size_t size)
{
	int fd = (int)sys_open("/run/openrc/softlevel", O_RDONLY);

	buf[0] = 0;
	if (fd >= 0)
		read_whole(fd, buf, size);
	sys_close(&fd);
}

static bool openrc_ends(const char *level)
{
	return str_starts(level, "shutdown") || str_starts(level, "reboot");
}

static bool openrc_is_up(void)
{
	char level[16];

	openrc_level(level, sizeof level);
	return level[0] && !str_starts(level, "sysinit") && !str_starts(level, "boot") && !openrc_ends(level);
}

static bool table_is_done(enum init kind)
{
	static bool begun; /* it has run one of its commands */
	static char title[PIECE];
	struct view v = { title, 0, is_awaited };
	struct process s;

	if (!process_stat("1", &s) || s.state != 'S')
		return false;
	process_words("1", title, sizeof title);
	if (kind == INIT_SYSV && (!(v.level = runlevel(title)) || ends(v.level)))
		return false;
	if (has_child(&v)) {
		begun = true;
		return false;
	}
	return begun || s.has_reaped || !table_awaits(NULL, v.level);
}

bool inits_rests(enum init kind)
{
	if (exists("/run/openrc/rc.starting") || exists("/run/openrc/rc.stopping"))
		return false;
	if (kind == INIT_OPENRC)
		return openrc_is_up();
	if (kind == INIT_RUNIT)
		return has_child(&(struct view){ .is = is_runsvdir });
	return kind == INIT_OTHER || table_is_done(kind);
}

bool inits_ends(enum init kind)
{
	static char text[PIECE];

	if (kind == INIT_SYSV) {
		process_words("1", text, sizeof text);
		return ends(runlevel(text));
	}
	if (kind == INIT_OPENRC) {
		openrc_level(text, 16);
		return openrc_ends(text);
	}
	if (kind == INIT_RUNIT) /* runit(8); here, they are not left over from an earlier boot */
		return can_run("/run/runit.stopit") || can_run("/run/runit/stopit");
	return false;
}
