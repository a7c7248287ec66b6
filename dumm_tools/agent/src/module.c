/* Kernel modules: loaded with their dependencies, from modules.dep(5), without modprobe. */
#include "module.h"

#define INDEX_MAX (4 << 20)

static char base[128];

/* Read an index; empty if it cannot be read, NULL if there is no memory for it. */
static char *load_index(const char *file)
{
	char path[192], *end = path + sizeof path;
	char *buf = mem_map(INDEX_MAX);

	str_copy(str_copy(str_copy(path, end, base), end, "/"), end, file);
	int fd = (int)sys_open(path, O_RDONLY);

	if (buf && (fd < 0 || read_whole(fd, buf, INDEX_MAX) < 0))
		buf[0] = 0;
	sys_close(&fd);
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
	if (!base[0])
		str_copy(str_copy(base, base + sizeof base, "/lib/modules/"), base + sizeof base,
			 agent.release);
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
