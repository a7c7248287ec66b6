/* The table of an init: inittab(5), and its like for busybox. */
#include "table.h"

#define SIZE (64 << 10)

static char *table;

bool table_read(void)
{
	int fd = (int)sys_open("/etc/inittab", O_RDONLY);

	if (fd >= 0 && (table = mem_map(SIZE)))
		if (read_whole(fd, table, SIZE) < 0)
			table[0] = 0;
	sys_close(&fd);
	return table;
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

static bool has(char c, const char *set)
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
		if (!quote && has(*from, "<>|;&")) {
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

bool table_awaits(const char *words, char level)
{
	static char line[1024];
	const char *text = table ? table : "::sysinit:/etc/init.d/rcS\n";
	char *levels, *action, *process;

	while ((process = next_entry(&text, line, sizeof line, &levels, &action))) {
		if (str_cmp(action, "sysinit") && str_cmp(action, "bootwait") && str_cmp(action, "boot") &&
		    str_cmp(action, "wait") && str_cmp(action, "shutdown"))
			continue;
		if (level && *levels && !str_cmp(action, "wait") && !has(level, levels))
			continue;
		while (has(*process, "-+ \t") && *process)
			process++;
		if (!words ? str_cmp(action, "shutdown") : ends_with(words, process))
			return true;
		strip_shell(process);
		if (words && ends_with(words, process))
			return true;
	}
	return false;
}
