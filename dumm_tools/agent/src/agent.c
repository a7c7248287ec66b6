/* The global state of the agent, and its error report. */
#include "agent.h"

struct agent agent;

void complain(const char *what, long error)
{
	char number[16];
	char *end = agent.trouble + sizeof agent.trouble;
	char *p = agent.trouble + str_len(agent.trouble);

	str_decimal(number, number + sizeof number, (u32)(error < 0 ? -error : error));
	if (p > agent.trouble)
		p = str_copy(p, end, "; ");
	p = str_copy(p, end, what);
	p = str_copy(p, end, ": errno ");
	str_copy(p, end, number);
	sys_write(2, "dumm-agent: ", 12);
	sys_write(2, what, str_len(what));
	sys_write(2, ": errno ", 8);
	sys_write(2, number, str_len(number));
	sys_write(2, "\n", 1);
}

long write_host(const char *path, const char *text)
{
	int fd = (int)sys_openat(agent.host, path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
	long r = fd < 0 ? fd : sys_write(fd, text, str_len(text));

	sys_close(&fd);
	return r;
}
