/* The log of the program's output, written by the keeper: the program has only one end of a pipe.
 *
 * It is limited to LOG_MAX. When it is full, its older half is discarded, in whole lines, and replaced
 * with a line that says how many bytes have been discarded in total, so that readers know their
 * position (console_log.py); while data is being moved, the log begins with a null byte. Output that
 * does not fit on the disk is lost; the pipe is still read, or the guest would block.
 */
#include "log.h"
#include "base.h"

#define LOG_MAX (4L << 20)
#define LOG_LEFT (LOG_MAX / 2)

static int log_fd = -1;
static off_t size;		    /* of the log */
static unsigned long long gone;	    /* bytes of output that were discarded */
static off_t head;		    /* length of the line that says so */
static char piece[1 << 16];

void log_to(int fd)
{
	struct stat st;

	log_fd = fd;
	size = fd < 0 || fstat(fd, &st) ? 0 : st.st_size;
}

/* The start of the first line from `at` on; `at` if no line starts within a piece. */
static off_t line_from(off_t at)
{
	ssize_t n = pread(log_fd, piece, sizeof piece, at);
	char *end = n > 0 ? memchr(piece, '\n', (size_t)n) : NULL;

	return end ? at + (end - piece) + 1 : at;
}

static void drop_older_half(void)
{
	off_t from = line_from(size - LOG_LEFT), to;
	char line[64];

	gone += (unsigned long long)(from - head);
	head = snprintf(line, sizeof line, "[%llu bytes before this are gone]\n", gone);
	/* Until the first line is written, last, readers see that data is being moved. */
	if (pwrite(log_fd, "", 1, 0) != 1)
		head = 0; /* harmless: a line more or less at the top */
	for (to = head; from < size;) {
		ssize_t n = pread(log_fd, piece, sizeof piece, from);

		/* Data moves towards the start by more than a piece, so nothing unread is overwritten. */
		if (n <= 0 || pwrite(log_fd, piece, (size_t)n, to) != n)
			break;
		from += n;
		to += n;
	}
	size = to;
	if (ftruncate(log_fd, size))
		size = lseek(log_fd, 0, SEEK_END);
	if (pwrite(log_fd, line, (size_t)head, 0) != head)
		head = 0;
}

static void append(const char *text, size_t n)
{
	if (size + (off_t)n > LOG_MAX)
		drop_older_half();
	ssize_t written = pwrite(log_fd, text, n, size);

	if (written > 0)
		size += written;
}

int log_some(int input)
{
	static char text[1 << 16];
	ssize_t n = read(input, text, sizeof text);

	if (n < 0)
		return errno == EINTR || errno == EAGAIN ? 0 : -1;
	if (n == 0)
		return -1;
	append(text, (size_t)n);
	return 1;
}

size_t log_tail(char *tail, size_t n)
{
	ssize_t got = pread(log_fd, tail, n, size > (off_t)n ? size - (off_t)n : 0);

	return got > 0 ? (size_t)got : 0;
}

void log_text(const char *text)
{
	if (log_fd >= 0)
		append(text, strlen(text));
}
