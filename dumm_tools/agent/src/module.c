/* Kernel modules: loaded with their dependencies, from modules.dep(5), without modprobe; and in place of
 * modprobe, for the kernel itself, where the guest has none. */
#include "module.h"

#define INDEX_MAX (4 << 20)

#define MODPROBE "/proc/sys/kernel/modprobe"

static char base[128];

bool module_index(const char *file, char *buf, size_t size)
{
	char path[192], *end = path + sizeof path;

	if (!base[0])
		str_copy(str_copy(base, base + sizeof base, "/lib/modules/"), base + sizeof base,
			 agent.release);
	str_copy(str_copy(str_copy(path, end, base), end, "/"), end, file);
	int fd = (int)sys_open(path, O_RDONLY);
	bool done = fd >= 0 && read_whole(fd, buf, size) >= 0;

	sys_close(&fd);
	return done;
}

/* The same in memory of its own; empty if it cannot be read, NULL if there is no memory for it. */
static char *load_index(const char *file)
{
	char *buf = mem_map(INDEX_MAX);

	if (buf && !module_index(file, buf, INDEX_MAX))
		buf[0] = 0;
	return buf;
}

/* Whether `path` (up to its end, a colon or a space) is the module `name`; '-' equals '_'. */
static bool is_module(const char *path, const char *name)
{
	const char *last = path;

	for (const char *s = path; *s && *s != ':' && *s != ' ' && *s != '\n'; s++)
		if (*s == '/')
			last = s + 1;
	for (; *name; name++, last++) {
		char a = *name == '-' ? '_' : *name, b = *last == '-' ? '_' : *last;

		if (a != b)
			return false;
	}
	return str_starts(last, ".ko");
}

static const char *find_line(const char *text, const char *name)
{
	while (*text) {
		if (is_module(text, name))
			return text;
		while (*text && *text++ != '\n')
			;
	}
	return NULL;
}

static long insert(const char *start, const char *stop)
{
	char path[512], *end = path + sizeof path, *p;

	p = str_copy(path, end, base);
	p = str_copy(p, end, "/");
	while (start < stop && p + 1 < end)
		*p++ = *start++;
	*p = 0;
	int fd = (int)sys_open(path, O_RDONLY);

	if (fd < 0)
		return fd;
	long r = SYS3(finit_module, fd, "", 0);

	sys_close(&fd);
	return r == -EEXIST ? 0 : r;
}

void module_place(const char *directory)
{
	str_copy(base, base + sizeof base, directory ? directory : "");
}

long module_load(const char *name)
{
	char *text = load_index("modules.dep");
	const char *line = text ? find_line(text, name) : NULL;
	long r = text ? -ENOENT : -ENOMEM;

	if (!line) {
		char *builtin = load_index("modules.builtin");

		if (builtin && find_line(builtin, name))
			r = 0;
		mem_unmap(builtin, INDEX_MAX);
	} else {
		const char *eol = line, *words[64];
		int n = 0;

		/* PATH: DEP DEP ... - the dependencies last to first, then the module itself. */
		for (bool in = false; *eol && *eol != '\n'; eol++) {
			bool space = *eol == ' ';

			if (!space && !in && n < 64)
				words[n++] = eol;
			in = !space;
		}
		for (r = 0; n-- && r == 0;) {
			const char *stop = words[n];

			while (*stop && *stop != ' ' && *stop != ':' && *stop != '\n')
				stop++;
			r = insert(words[n], stop);
		}
	}
	mem_unmap(text, INDEX_MAX);
	return r;
}

/* ---- in place of modprobe ---- */

static char plain(char c)
{
	return c == '-' ? '_' : c;
}

/* Whether a name matches an alias, up to the space after it: with *, ? and [SET], and '-' as '_'. */
static bool matches(const char *alias, const char *name)
{
	for (; *alias && *alias != ' '; alias++, name++) {
		if (*alias == '*') {
			for (;; name++) {
				if (matches(alias + 1, name))
					return true;
				if (!*name)
					return false;
			}
		}
		if (!*name)
			return false;
		if (*alias == '[') {
			bool found = false;

			for (alias++; *alias && *alias != ']' && *alias != '\n'; alias++) {
				bool range = alias[1] == '-' && alias[2] && alias[2] != ']';

				if (range ? *alias <= *name && *name <= alias[2] : *alias == *name)
					found = true;
				if (range)
					alias += 2;
			}
			if (!found)
				return false;
		} else if (*alias != '?' && plain(*alias) != plain(*name)) {
			return false;
		}
	}
	return !*name;
}

long module_request(const char *name)
{
	long r = module_load(name), one;
	char *text = r == -ENOENT ? load_index("modules.alias") : NULL;

	/* Lines of "alias PATTERN MODULE". */
	for (char *s = text; s && *s;) {
		char *line = s;

		while (*s && *s != '\n')
			s++;
		if (*s)
			*s++ = 0;
		if (!str_starts(line, "alias ") || !matches(line + 6, name))
			continue;
		for (line += 6; *line && *line != ' '; line++)
			;
		if (*line && ((one = module_load(line + 1)) == 0 || r == -ENOENT))
			r = one;
	}
	mem_unmap(text, INDEX_MAX);
	return r;
}

void module_serve(void)
{
	char path[32], *end = path + sizeof path;
	int fd = (int)sys_open("/sbin/modprobe", O_PATH);

	if (fd < 0 && (fd = (int)sys_open(MODPROBE, O_WRONLY)) >= 0) {
		char *p = str_copy(path, end, "/proc/");

		p = str_decimal(p, end, (u32)SYS0(getpid));
		p = str_copy(p, end, "/exe");
		sys_write(fd, path, (size_t)(p - path));
	}
	sys_close(&fd);
}
