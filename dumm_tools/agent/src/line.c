/* Lines: opening them, and framing in both directions. */
#include "line.h"

static void set_raw(int fd)
{
	struct termios t;

	if (SYS3(ioctl, fd, TCGETS, &t) < 0)
		return;
	t.c_iflag = 0;
	t.c_oflag = 0;
	t.c_lflag = 0;
	t.c_cflag = CS8 | CREAD | CLOCAL | B38400;
	t.c_cc[VMIN] = 1;
	t.c_cc[VTIME] = 0;
	SYS3(ioctl, fd, TCSETS, &t);
}

bool line_open(int number)
{
	struct line *l = &agent.lines[number];
	char path[32] = "/dev/ttyS";

	str_decimal(path + str_len(path), path + sizeof path, (u32)number);
	memset(l, 0, sizeof *l);
	l->number = number;
	l->netlink = l->bulk = -1;
	l->program.in = l->program.out = l->program.err = l->program.started = -1;
	l->fd = (int)sys_open(path, O_RDWR | O_NOCTTY | O_NONBLOCK);
	if (l->fd < 0) {
		complain(path, l->fd);
		return false;
	}
	set_raw(l->fd);
	/* The terminal was not in raw mode until now: an earlier HELLO may be lost. */
	sys_write(l->fd, OPENED, sizeof OPENED - 1);
	return true;
}

u32 line_room(const struct line *l)
{
	return OUT_MAX - l->out_len > HEAD ? OUT_MAX - l->out_len - HEAD : 0;
}

bool line_send(struct line *l, u8 type, const void *payload, u32 n)
{
	if (n > line_room(l))
		return false;
	if (l->out_pos + l->out_len + HEAD + n > OUT_MAX) {
		memmove(l->out, l->out + l->out_pos, l->out_len);
		l->out_pos = 0;
	}
	u8 *p = l->out + l->out_pos + l->out_len;

	p[0] = type;
	p[1] = (u8)n;
	p[2] = (u8)(n >> 8);
	p[3] = (u8)(n >> 16);
	memcpy(p + HEAD, payload, n);
	l->out_len += HEAD + n;
	return true;
}

void line_write(struct line *l)
{
	while (l->out_len) {
		long n = sys_write(l->fd, l->out + l->out_pos, l->out_len);

		if (n <= 0)
			return;
		l->out_pos += (u32)n;
		l->out_len -= (u32)n;
	}
	l->out_pos = 0;
}

static void frame_end(struct line *l, line_handler *handle)
{
	bool good = l->in_frame && !l->overlong && l->in_len > 0;
	u32 n = l->in_len;

	l->in_len = 0;
	l->escaped = l->overlong = false;
	l->in_frame = true;
	if (good) {
		l->in[n] = 0; /* strings in a payload are always terminated */
		handle(l, l->in[0], l->in + 1, n - 1);
	}
}

void line_read(struct line *l, line_handler *handle)
{
	static u8 buf[8192];
	long got;

	if (!l->in && !(l->in = mem_map(IN_MAX)))
		return;
	while ((got = sys_read(l->fd, buf, sizeof buf)) > 0) {
		for (long i = 0; i < got; i++) {
			u8 c = buf[i];

			l->taken++;
			if (c == END) {
				frame_end(l, handle);
				continue;
			}
			if (l->escaped) {
				c = c == ESC_END ? END : ESC;
				l->escaped = false;
			} else if (c == ESC) {
				l->escaped = true;
				continue;
			}
			if (l->in_len < IN_MAX - 1)
				l->in[l->in_len++] = c;
			else
				l->overlong = true;
		}
		if (got < (long)sizeof buf)
			break;
	}
}
