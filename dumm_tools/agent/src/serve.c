/* Handling requests in frames, and the work that goes on without them. */
#include "serve.h"
#include "booted.h"
#include "holders.h"
#include "input.h"
#include "layers.h"
#include "line.h"
#include "module.h"
#include "net.h"
#include "power.h"
#include "program.h"
#include "startup.h"

static void answer(struct line *l, long result)
{
	u32 error = result < 0 ? (u32)-result : 0;

	line_send(l, DONE, &error, 4);
}

/* A client may die silently; the next one, on any line, can see what it left running. */
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
	char text[READY_MAX], *end = text + sizeof text, *p = text;

	if (booted_ends())
		return; /* the next boot will answer */
	program_drop(l);
	l->taken = l->told = 0;
	l->tell = l->asked = false;
	sys_close(&l->netlink);
	if (!l->greeted) {
		l->out = mem_map(OUT_MAX);
		l->pending = mem_map(INPUT_WINDOW);
	}
	l->greeted = l->out && l->pending;
	if (!l->greeted)
		return;
	/* The client may read the rest of an old frame before this; it recognizes its nonce. */
	l->out_pos = l->out_len = 0;
	memcpy(p, nonce, NONCE);
	p += NONCE;
	p = str_copy(p, end, agent.nonce);
	p = str_copy(p, end, " ");
	p = str_copy(p, end, agent.release);
	p = str_copy(p, end, " ");
	p = busy_lines(p, l->number);
	p = str_copy(p, end, *agent.useless ? " !" : " ");
	p = str_copy(p, end, *agent.useless ? agent.useless : agent.trouble);
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

static void held(struct line *l)
{
	static char text[HELD_MAX];

	line_send(l, HELD, text, (u32)holders_list(text, sizeof text));
}

/* Answer a client that waits for the guest to be booted, if it is. */
static void answer_booted(struct line *l)
{
	char text[BOOTED_MAX], *end = text + sizeof text;

	if (!l->asked || !startup_is_over() || !booted_init())
		return;
	char *p = str_copy(str_copy(text, end, booted_kind()), end, " ");

	p = str_copy(p, end, startup_state());
	l->asked = !line_send(l, BOOTED, text, (u32)(p - text));
}

static void handle(struct line *l, u8 type, u8 *p, u32 n)
{
	if (type == HELLO && n == NONCE) {
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
		input_take(l, p, n);
		break;
	case BULK:
		input_bulk(l, p, n);
		break;
	case INPUT_END:
		l->program.input_ended = true;
		input_feed(l);
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
	case NETNS:
		if (n == 4) {
			u32 number;

			memcpy(&number, p, 4);
			answer(l, net_enter(l, number));
		}
		break;
	case MODULE:
		answer(l, module_load((char *)p));
		break;
	case STORE:
		store(l, (char *)p, n);
		break;
	case LAYERS:
		if (n && !p[n - 1])
			answer(l, layers_change((char *)p, (char *)p + str_len((char *)p) + 1));
		break;
	case HOLDERS:
		held(l);
		break;
	case POWER:
		if (n == 1)
			power((char)p[0]);
		break;
	case STATE:
		line_send(l, TAKEN_LINE, &l->taken, sizeof l->taken); /* as a sign that it is known */
		l->asked = true;
		booted_look_again();
		break;
	}
}

void serve_read(struct line *l)
{
	line_read(l, handle);
}

/* Do everything that can be done without waiting; called after each round of poll. Work that was held
 * up for lack of room continues once the line has accepted data: no event signals that room. */
void serve_work(struct line *l)
{
	u32 waiting;

	if (!l->greeted)
		return;
	do {
		input_feed(l);
		program_finish(l);
		answer_booted(l);
		if ((l->tell || l->taken - l->told >= LINE_WINDOW / 3) &&
		    line_send(l, TAKEN_LINE, &l->taken, sizeof l->taken)) {
			l->told = l->taken;
			l->tell = false;
		}
		waiting = l->out_len;
		line_write(l);
	} while (l->out_len < waiting);
}
