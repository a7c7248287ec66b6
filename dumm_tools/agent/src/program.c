/* Programs: starting them on a line, draining their output, reaping them. */
#include "program.h"
#include "child.h"
#include "line.h"
#include "power.h"

static void fail(struct line *l, long error, const char *what)
{
	u8 buf[FAILED_MAX];
	u32 number = (u32)-error;
	char *end = str_copy((char *)buf + 4, (char *)buf + sizeof buf, what);

	memcpy(buf, &number, 4);
	line_send(l, FAILED, buf, (u32)(end - (char *)buf));
}

static bool make_pipe(int fds[2])
{
	return SYS2(pipe2, fds, O_CLOEXEC) == 0;
}

static void nonblocking(int fd)
{
	SYS3(fcntl, fd, F_SETFL, O_NONBLOCK);
}

static int open_terminal(int *slave, u16 rows, u16 cols)
{
	int master = (int)sys_open("/dev/ptmx", O_RDWR | O_NOCTTY | O_NONBLOCK);
	int unlock = 0;
	u16 size[4] = { rows, cols, 0, 0 };

	if (master < 0)
		return master;
	SYS3(ioctl, master, TIOCSPTLCK, &unlock);
	*slave = (int)SYS3(ioctl, master, TIOCGPTPEER, O_RDWR | O_NOCTTY | O_CLOEXEC);
	if (*slave < 0) {
		int error = *slave;

		sys_close(&master);
		return error;
	}
	SYS3(ioctl, master, TIOCSWINSZ, size);
	return master;
}

void program_run(struct line *l, u8 *payload, u32 n)
{
	struct program *p = &l->program;
	struct request *r = NULL;
	int fds[3] = { -1, -1, -1 };	/* the child's stdin, stdout, stderr */
	int in[2] = { -1, -1 }, out[2] = { -1, -1 }, err[2] = { -1, -1 }, tell[2] = { -1, -1 };
	long error;

	if (p->pid)
		return fail(l, -EBUSY, "a program is already running on this line");
	program_drop(l); /* input that came too late for an earlier one */
	if ((error = request_take(payload, n, &r)) < 0)
		return fail(l, error, error == -EINVAL ? "bad request" : "exec ");
	bool tty = r->flags & RUN_TTY, ends = !agent.is_init && power_is_asked_for(r->argv);

	error = -EMFILE;
	if (!make_pipe(tell))
		goto broken;
	if (tty) {
		int slave = -1;
		int master = open_terminal(&slave, r->rows, r->cols);

		if (master < 0) {
			error = master;
			goto broken;
		}
		out[0] = in[1] = master;
		fds[0] = fds[1] = fds[2] = slave;
	} else {
		if (!make_pipe(in) || !make_pipe(out) || !make_pipe(err))
			goto broken;
		fds[0] = in[0];
		fds[1] = out[1];
		fds[2] = err[1];
		nonblocking(in[1]);
		nonblocking(out[0]);
		nonblocking(err[0]);
	}

	error = child_start(r, tell[1], fds);
	r = NULL;
	if (error < 0)
		goto broken;
	memset(p, 0, sizeof *p);
	p->pid = (int)error;
	p->tty = tty;
	p->ends = ends;
	p->in = in[1];
	p->out = out[0];
	p->err = err[0];
	p->started = tell[0];
	nonblocking(p->started);
	sys_close(&tell[1]);
	sys_close(&fds[0]);
	if (!tty) {
		sys_close(&fds[1]);
		sys_close(&fds[2]);
	}
	return;

broken:
	if (r)
		request_drop(r);
	if (tty)
		sys_close(&fds[0]);
	for (int i = 0; i < 2; i++) {
		sys_close(&tell[i]);
		sys_close(&in[i]);
		if (!tty)
			sys_close(&out[i]);
		sys_close(&err[i]);
	}
	fail(l, error, "no room for another program");
}

/* The child's report before exec: nothing (success), or an errno and its subject. */
void program_started(struct line *l)
{
	struct program *p = &l->program;
	u8 buf[FAILED_MAX];
	long n = sys_read(p->started, buf, sizeof buf);

	if (n == -EAGAIN)
		return;
	sys_close(&p->started);
	if (n == 0)
		request_left(p->pid);
	if (n > 4) {
		line_send(l, FAILED, buf, (u32)n);
		program_drop(l);
	}
}

/* Move the program's output into frames, as far as the line has room. */
void program_drain(struct line *l, int *fd, u8 type)
{
	static u8 buf[16384];
	u32 room;

	while (*fd >= 0 && (room = line_room(l)) >= 1024) {
		long n = sys_read(*fd, buf, room < sizeof buf ? room : sizeof buf);

		if (n == -EAGAIN || n == -EINTR)
			return;
		if (n <= 0) { /* the end; EIO from a terminal that is no longer open */
			if (l->program.tty)
				l->program.in = -1;
			sys_close(fd);
			return;
		}
		line_send(l, type, buf, (u32)n);
		line_write(l);
	}
}

/* After the program has ended: send the data left in its pipes, then its status. Do not wait for later
 * output of its children, or `sh -c 'daemon &'` would never end. */
void program_finish(struct line *l)
{
	struct program *p = &l->program;
	u32 status = (u32)p->status;

	if (!p->pid || !p->gone)
		return;
	program_drain(l, &p->out, OUTPUT);
	program_drain(l, &p->err, ERRORS);
	if (line_room(l) < OUT_MAX / 2)
		return; /* perhaps more to read: after the next write */
	if (p->started >= 0)
		program_started(l);
	if (!p->pid)
		return;
	if (p->ends && !status)
		power_announce();
	line_send(l, STATUS, &status, 4);
	p->pid = 0;
	program_drop(l);
}

/* Signal the program's group, or the program itself until it leads one. */
void program_signal(const struct program *p, int number)
{
	if (p->pid && !p->gone && sys_kill(-p->pid, number) == -ESRCH)
		sys_kill(p->pid, number);
}

/* Forget the line's program; if it is still running, it loses its terminal. */
void program_drop(struct line *l)
{
	struct program *p = &l->program;

	program_signal(p, SIGHUP);
	program_signal(p, SIGCONT);
	p->pid = 0;
	p->gone = p->input_ended = false;
	if (p->tty)
		p->in = -1; /* the same descriptor as out */
	p->tty = false;
	sys_close(&p->in);
	sys_close(&p->out);
	sys_close(&p->err);
	sys_close(&p->started);
	sys_close(&l->bulk);
	l->bulks = 0;
	l->pending_len = l->pending_pos = 0;
}
