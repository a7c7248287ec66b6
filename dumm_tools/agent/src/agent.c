/* The global state of the agent, and its error reports. */
#include "agent.h"

struct agent agent;

/* Append "WHAT: errno NUMBER" to a text, and print it. */
static void report(char *text, size_t size, const char *what, long error)
{
	char line[160], *end = line + sizeof line, *p = str_copy(line, end, what);

	if (error) {
		p = str_copy(p, end, ": errno ");
		p = str_decimal(p, end, (u32)(error < 0 ? -error : error));
	}
	sys_write(2, "dumm-agent: ", 12);
	sys_write(2, line, (size_t)(p - line));
	sys_write(2, "\n", 1);
	end = text + size;
	text += str_len(text);
	if (end - text < (long)size)
		text = str_copy(text, end, "; ");
	str_copy(text, end, line);
}

void complain(const char *what, long error)
{
	report(agent.trouble, sizeof agent.trouble, what, error);
}

void give_up(const char *what, long error)
{
	if (!*agent.useless)
		report(agent.useless, sizeof agent.useless, what, error);
}

long write_host(const char *path, const char *text)
{
	int fd = (int)sys_openat(agent.host, path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
	long r = fd < 0 ? fd : sys_write(fd, text, str_len(text));

	sys_close(&fd);
	return r;
}
