/* A program's stdin, from the line and from files of the host. */
#include "input.h"
#include "line.h"

static void deafen(struct line *l)
{
	if (l->program.tty)
		l->program.in = -1; /* the same descriptor as out */
	else
		sys_close(&l->program.in);
	line_send(l, DEAF, NULL, 0);
}

void input_take(struct line *l, const u8 *payload, u32 n)
{
	if (l->pending_pos + l->pending_len + n > INPUT_WINDOW) {
		memmove(l->pending, l->pending + l->pending_pos, l->pending_len);
		l->pending_pos = 0;
	}
	if (l->pending_len + n > INPUT_WINDOW)
		return; /* the client exceeded its window */
	memcpy(l->pending + l->pending_pos + l->pending_len, payload, n);
	l->pending_len += n;
	l->pending_bulk = false;
	input_feed(l);
}

void input_bulk(struct line *l, const u8 *payload, u32 n)
{
	if (n != 5 || l->bulks == 2)
		return;
	l->bulk_queue[l->bulks] = payload[0];
	memcpy(&l->bulk_left[l->bulks], payload + 1, 4);
	l->bulks++;
	input_feed(l);
}

static int bulk_open(struct line *l)
{
	char path[24] = "xfer/", *end = path + sizeof path;
	char *p = str_decimal(path + str_len(path), end, (u32)l->number);

	str_decimal(str_copy(p, end, "."), end, l->bulk_queue[0] & 7);
	/* hostfs drops the inode and its pages at the last close, so each open reads from the host again. */
	return (int)sys_openat(agent.host, path, O_RDONLY | O_CLOEXEC, 0);
}

/* Read from the host's file into `pending`. The file is acknowledged once the program has consumed
 * all of it, so that `pending` is empty for whatever the client sends next. */
static void bulk_refill(struct line *l)
{
	long n = -1;

	if (l->bulk < 0 && l->bulk_left[0])
		l->bulk = bulk_open(l);
	if (l->bulk >= 0 && l->bulk_left[0]) {
		u32 want = l->bulk_left[0] < INPUT_WINDOW ? l->bulk_left[0] : INPUT_WINDOW;

		n = sys_read(l->bulk, l->pending, want);
	}
	if (n > 0) {
		l->pending_pos = 0;
		l->pending_len = (u32)n;
		l->pending_bulk = true;
		l->bulk_left[0] -= (u32)n;
	} else {
		line_send(l, BULK_TAKEN, &l->bulk_queue[0], 1);
		sys_close(&l->bulk);
		l->bulk_queue[0] = l->bulk_queue[1];
		l->bulk_left[0] = l->bulk_left[1];
		l->bulks--;
	}
}

/* Only while acknowledgements can be sent: a client that does not get them would wait forever. */
void input_feed(struct line *l)
{
	struct program *p = &l->program;

	if (!p->pid)
		return;
	for (;;) {
		u32 taken = 0;

		if (line_room(l) < FEED_ROOM)
			return;
		while (!l->pending_len && l->bulks)
			bulk_refill(l);
		if (!l->pending_len)
			break;
		if (p->in < 0) { /* no reader: discard it, so that the client does not block */
			taken = l->pending_len;
		} else {
			long n = sys_write(p->in, l->pending + l->pending_pos, l->pending_len);

			if (n == -EAGAIN)
				return;
			if (n < 0) {
				deafen(l);
				continue;
			}
			taken = (u32)n;
		}
		l->pending_pos += taken;
		l->pending_len -= taken;
		if (!l->pending_bulk)
			line_send(l, TAKEN, &taken, 4);
	}
	l->pending_pos = 0;
	if (p->input_ended && p->in >= 0) {
		if (p->tty)
			sys_write(p->in, "\004", 1);
		else
			sys_close(&p->in);
		p->input_ended = false;
	}
}
