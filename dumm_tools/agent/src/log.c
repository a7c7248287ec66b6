/* The output of the startup program, in a file on the host that never gets long. */
#include "log.h"

#define LOG_MAX (256u << 10)
#define KEPT (LOG_MAX / 2)

static struct {
	int fd;
	u32 length, head;	/* of the file, and of its first line, if that says what is gone */
	u32 gone;
} log = { -1, 0, 0, 0 };

void log_open(const char *path)
{
	log.fd = (int)sys_openat(agent.host, path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
}

static void append(const void *data, u32 n)
{
	if (SYS4(pwrite64, log.fd, data, n, log.length) > 0)
		log.length += n;
}

/* Keep the last bytes only. */
static void shorten(void)
{
	char head[48], *end = head + sizeof head;
	u8 *kept = mem_map(KEPT);
	long n = kept ? SYS4(pread64, log.fd, kept, KEPT, log.length - KEPT) : 0;

	log.gone += log.length - log.head - (n > 0 ? (u32)n : 0);
	SYS2(ftruncate, log.fd, 0);
	str_copy(str_decimal(str_copy(head, end, "["), end, log.gone), end, " bytes before this are gone]\n");
	log.length = 0;
	append(head, (u32)str_len(head));
	log.head = log.length;
	if (n > 0)
		append(kept, (u32)n);
	mem_unmap(kept, KEPT);
}

void log_write(const void *data, u32 n)
{
	if (log.fd < 0)
		return;
	if (log.length + n > LOG_MAX)
		shorten();
	append(data, n);
}
