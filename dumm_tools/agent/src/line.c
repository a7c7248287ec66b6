/* Lines: framing, and what each frame asks for. */
#include "agent.h"

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
	char path[32] = "/dev/ttyS", *p = path + str_len(path);

	if (number >= 10)
		*p++ = (char)('0' + number / 10);
	*p++ = (char)('0' + number % 10);
	*p = 0;
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
	/* Until now the terminal was cooked: a HELLO that came before this may be lost. */
	sys_write(l->fd, OPENED, sizeof OPENED - 1);
	return true;
}

u32 line_room(const struct line *l)
{
	return OUT_MAX - l->out_len > 4 ? OUT_MAX - l->out_len - 4 : 0;
}

/* Queue a frame for the host; false when there is no room for it. */
bool line_send(struct line *l, u8 type, const void *payload, u32 n)
{
	if (n > line_room(l))
		return false;
	if (l->out_pos + l->out_len + 4 + n > OUT_MAX) {
		memmove(l->out, l->out + l->out_pos, l->out_len);
		l->out_pos = 0;
	}
	u8 *p = l->out + l->out_pos + l->out_len;

	p[0] = type;
	p[1] = (u8)n;
	p[2] = (u8)(n >> 8);
	p[3] = (u8)(n >> 16);
	memcpy(p + 4, payload, n);
	l->out_len += 4 + n;
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

static void answer(struct line *l, long result)
{
	u32 error = result < 0 ? (u32)-result : 0;

	line_send(l, DONE, &error, 4);
}

/* A client may die without a word; whoever comes next, on whatever line, can see what it left. */
static char *busy_lines(char *p, int but)
{
	uint64_t busy = 0;

	for (int i = 0; i < agent.open_count; i++)
		if (i != but && agent.lines[i].program.pid)
			busy |= 1ULL << i;
	for (int shift = 60; shift >= 0; shift -= 4)
		*p++ = "0123456789abcdef"[busy >> shift & 15];
	return p;
}

static void hello(struct line *l, const u8 *nonce)
{
	char text[400], *end = text + sizeof text, *p = text;

	program_drop(l);
	l->taken = l->told = 0;
	l->tell = false;
	sys_close(&l->netlink);
	if (!l->greeted) {
		l->out = mem_map(OUT_MAX);
		l->pending = mem_map(INPUT_WINDOW);
	}
	l->greeted = l->out && l->pending;
	if (!l->greeted)
		return;
	/* The client may meet the rest of an old frame before this; it knows its nonce. */
	l->out_pos = l->out_len = 0;
	memcpy(p, nonce, 16);
	p += 16;
	p = str_copy(p, end, agent.nonce);
	p = str_copy(p, end, " ");
	p = str_copy(p, end, agent.release);
	p = str_copy(p, end, " ");
	p = busy_lines(p, l->number);
	p = str_copy(p, end, " ");
	p = str_copy(p, end, agent.trouble);
	line_send(l, READY, text, (u32)(p - text));
}

static void store(struct line *l, char *path, u32 n)
{
	u32 split = (u32)str_len(path) + 1;

	if (split > n) {
		answer(l, -EINVAL);
		return;
	}
	int fd = (int)sys_open(path, O_WRONLY);
	long r = fd;

	if (fd >= 0)
		r = sys_write(fd, path + split, n - split);
	sys_close(&fd);
	answer(l, r);
}

static void handle(struct line *l, u8 type, u8 *p, u32 n)
{
	if (type == HELLO && n == 16) {
		hello(l, p);
		return;
	}
	if (!l->greeted)
		return;
	switch (type) {
	case RUN:
		program_run(l, p, n);
		break;
	case INPUT:
		program_input(l, p, n);
		break;
	case BULK:
		program_bulk(l, p, n);
		break;
	case INPUT_END:
		l->program.input_ended = true;
		program_feed(l);
		break;
	case SIGNAL:
		if (n == 1)
			program_signal(&l->program, p[0]);
		l->tell = true;
		break;
	case RESIZE:
		if (n == 4 && l->program.tty && l->program.out >= 0) {
			u16 size[4] = { (u16)(p[0] | p[1] << 8), (u16)(p[2] | p[3] << 8), 0, 0 };

			SYS3(ioctl, l->program.out, TIOCSWINSZ, size);
		}
		break;
	case NETLINK:
		net_send(l, p, n);
		break;
	case MODULE:
		answer(l, module_load((char *)p));
		break;
	case STORE:
		store(l, (char *)p, n);
		break;
	case POWER:
		if (n == 1)
			power((char)p[0]);
		break;
	}
}

static void frame_end(struct line *l)
{
	bool good = l->in_frame && !l->overlong && l->in_len > 0;
	u32 n = l->in_len;

	l->in_len = 0;
	l->escaped = l->overlong = false;
	l->in_frame = true;
	if (good) {
		l->in[n] = 0; /* strings in a payload are ended whatever was sent */
		handle(l, l->in[0], l->in + 1, n - 1);
	}
}

void line_read(struct line *l)
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
				frame_end(l);
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

/* Everything that can move without waiting: called after each round of poll. What could not move for
 * want of room does once the line has taken something: no event will tell of that room. */
void line_work(struct line *l)
{
	u32 waiting;

	if (!l->greeted)
		return;
	do {
		program_feed(l);
		program_finish(l);
		if ((l->tell || l->taken - l->told >= LINE_WINDOW / 3) &&
		    line_send(l, TAKEN_LINE, &l->taken, sizeof l->taken)) {
			l->told = l->taken;
			l->tell = false;
		}
		waiting = l->out_len;
		line_write(l);
	} while (l->out_len < waiting);
}
