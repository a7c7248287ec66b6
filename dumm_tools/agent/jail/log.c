/* The log of what the program prints, written by the keeper: the program has but the end of a pipe.
 *
 * It is LOG_MAX long at most. Then its older half goes, whole lines of it, and a line in its place
 * says how many bytes have gone in all: so whoever reads along knows where it is (console_log.py).
 * What does not fit on the disk is lost; the pipe is read all the same, or the guest would wait.
 */
#include "log.h"
#include "base.h"

#define LOG_MAX (4L << 20)
#define LOG_LEFT (LOG_MAX / 2)

static int log_fd = -1;
static off_t size;		    /* of the log */
static unsigned long long gone;	    /* bytes of the program's that have left it */
static off_t head;		    /* how long the line is that says so */
static char piece[1 << 16];

void log_to(int fd)
{
	struct stat st;

	log_fd = fd;
	size = fd < 0 || fstat(fd, &st) ? 0 : st.st_size;
}

/* The start of the first line from `at` on; where none begins in a piece, `at`. */
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
	if (pwrite(log_fd, line, (size_t)head, 0) != head)
		head = 0; /* no worse: a line more or less at the top */
	for (to = head; from < size;) {
		ssize_t n = pread(log_fd, piece, sizeof piece, from);

		/* It moves towards the start, by more than a piece: so nothing is written over unread. */
		if (n <= 0 || pwrite(log_fd, piece, (size_t)n, to) != n)
			break;
		from += n;
		to += n;
	}
	size = to;
	if (ftruncate(log_fd, size))
		size = lseek(log_fd, 0, SEEK_END);
}

int log_some(int input)
{
	static char text[1 << 16];
	ssize_t n = read(input, text, sizeof text);

	if (n < 0)
		return errno == EINTR || errno == EAGAIN ? 0 : -1;
	if (n == 0)
		return -1;
	if (size + n > LOG_MAX)
		drop_older_half();
	ssize_t written = pwrite(log_fd, text, (size_t)n, size);

	if (written > 0)
		size += written;
	return 1;
}
