/* The agent's loop: lines, programs, children, signals, the raw console. */
#include "boot.h"
#include "booted.h"
#include "console.h"
#include "forget.h"
#include "input.h"
#include "line.h"
#include "machine.h"
#include "module.h"
#include "net.h"
#include "power.h"
#include "program.h"
#include "request.h"
#include "serve.h"
#include "startup.h"

#define SPARE_LINES 4


static uint64_t bit(int sig)
{
	return 1ULL << (sig - 1);
}

static int watch_signals(void)
{
	uint64_t all = ~0ULL, wanted = bit(SIGCHLD) | bit(SIGTERM);

	/* SIGPIPE and the others stay blocked: a failed write is enough. */
	SYS4(rt_sigprocmask, SIG_SETMASK, &all, NULL, 8);
	if (agent.is_init) { /* sent by halt, poweroff and reboot of busybox and sysvinit */
		wanted |= bit(SIGUSR1) | bit(SIGUSR2) | bit(SIGINT) | bit(SIGPWR);
		SYS4(reboot, 0xfee1dead, 672274793, 0 /* CAD_OFF: Ctrl-Alt-Del is SIGINT */, NULL);
	}
	return (int)SYS4(signalfd4, -1, &wanted, 8, O_CLOEXEC | O_NONBLOCK);
}

static void reap(void)
{
	int status;
	long pid;

	while ((pid = SYS4(wait4, -1, &status, WNOHANG, NULL)) > 0) {
		if (pid == agent.console_pid)
			agent.console_pid = 0;
		request_left((int)pid);
		startup_reap((int)pid, status);
		for (int i = 0; i < agent.open_count; i++) {
			struct program *p = &agent.lines[i].program;

			if (p->pid == pid && !p->gone) {
				p->gone = true;
				p->status = status;
			}
		}
	}
}

static void take_signals(int fd)
{
	struct {
		u32 number, error, code, sender;
		u8 rest[112];
	} s;

	while (sys_read(fd, &s, sizeof s) == sizeof s) {
		if (s.number == SIGCHLD)
			reap();
		else if (!agent.is_init)
			booted_terminated((int)s.sender);
		else
			power(s.number == SIGTERM || s.number == SIGINT ? POWER_REBOOT : POWER_OFF);
	}
}

/* Keep a few lines open above the highest one in use: clients take the lowest free one. */
static void open_lines(void)
{
	int used = 0;

	for (int i = 0; i < agent.open_count; i++)
		if (agent.lines[i].greeted)
			used = i + 1;
	while (agent.open_count < agent.line_count && agent.open_count < used + SPARE_LINES) {
		if (!line_open(agent.open_count)) {
			if (agent.open_count == 0) /* nobody could ever talk to this guest */
				power(POWER_OFF);
			agent.line_count = agent.open_count;
		}
		else
			agent.open_count++;
	}
}

static u32 add(struct pollfd_ *p, u32 n, int fd, short events)
{
	p[n] = (struct pollfd_){ fd, events, 0 };
	return n + 1;
}

/* How long the loop may wait for an event: -1 for ever. */
static int patience(void)
{
	bool asked = startup_is_waiting();

	for (int i = 0; i < agent.open_count; i++)
		asked |= agent.lines[i].asked;
	return asked && booted_must_look() && !booted_init() ? BOOTED_LOOK : forget_patience();
}

static void loop(int signals)
{
	static struct pollfd_ p[5 + LINES_MAX * 6];

	for (;;) {
		u32 n = 0, at[LINES_MAX];

		n = add(p, n, signals, POLLIN);
		n = add(p, n, agent.console_pid ? -1 : agent.console, POLLIN);
		n = add(p, n, booted_messages(), POLLIN);
		n = add(p, n, startup_report(), POLLIN);
		n = add(p, n, startup_output(), POLLIN);
		for (int i = 0; i < agent.open_count; i++) {
			struct line *l = &agent.lines[i];
			struct program *g = &l->program;
			bool room = line_room(l) >= 1024;

			at[i] = n;
			n = add(p, n, l->fd, (short)(POLLIN | (l->out_len ? POLLOUT : 0)));
			if (!l->greeted)
				continue;
			n = add(p, n, l->netlink, POLLIN);
			n = add(p, n, g->started, POLLIN);
			n = add(p, n, room ? g->out : -1, POLLIN);
			n = add(p, n, room ? g->err : -1, POLLIN);
			n = add(p, n, l->pending_len && line_room(l) >= FEED_ROOM ? g->in : -1,
				POLLOUT);
		}
		if (sys_poll(p, n, patience()) < 0)
			continue;
		forget_look();
		if (p[0].revents)
			take_signals(signals);
		if (p[1].fd >= 0 && p[1].revents & POLLIN)
			console_shell();
		if (p[2].revents)
			booted_take();
		if (p[3].revents)
			startup_started();
		if (p[4].revents)
			startup_drain();
		if (startup_is_waiting() && booted_init())
			startup_run();
		for (int i = 0; i < agent.open_count; i++) {
			struct line *l = &agent.lines[i];
			struct pollfd_ *q = p + at[i];
			bool was_greeted = l->greeted;

			if (was_greeted) {
				if (l->netlink >= 0 && q[1].revents)
					net_receive(l);
				if (l->program.started >= 0 && q[2].revents)
					program_started(l);
				if (l->program.out >= 0 && q[3].revents)
					program_drain(l, &l->program.out, OUTPUT);
				if (l->program.err >= 0 && q[4].revents)
					program_drain(l, &l->program.err, ERRORS);
			}
			if (q[0].revents & POLLIN)
				serve_read(l);
			serve_work(l);
		}
		open_lines();
	}
}

/* Become the guest's own init. If that fails, report it to the agent and stay, so that the guest can be
 * inspected. */
static __attribute__((noreturn)) void run_init(const char *path, const char *variable, int tell)
{
	const char *const argv[] = { path, NULL };
	const char *const env[] = { "HOME=/", "TERM=linux",
		"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", variable, NULL };
	uint64_t none = 0;

	SYS4(rt_sigprocmask, SIG_SETMASK, &none, NULL, 8);
	long error = SYS3(execve, path, argv, env);

	sys_write(tell, &error, sizeof error);
	sys_close(&tell);
	for (;;)
		SYS4(wait4, -1, NULL, 0, NULL);
}

/* The kernel runs modprobe -q -- NAME (call_modprobe, kernel/module/kmod.c); see module_serve. */
static __attribute__((noreturn)) void serve_kernel(char **argv)
{
	if (!argv[1] || str_cmp(argv[1], "-q") || !argv[2] || str_cmp(argv[2], "--") || !argv[3])
		sys_exit(2);
	boot_release();
	sys_exit(module_request(argv[3]) < 0);
}

int agent_main(char **argv, char **env);
int agent_main(char **argv, char **env)
{
	static char config[1 << 20]; /* only what is used of it takes memory */
	const char *count = env_get(env, "DUMM_LINES"), *files = env_get(env, "DUMM_FILES");

	if (SYS0(getpid) != 1)
		serve_kernel(argv);

	agent.nonce = env_get(env, "DUMM_NONCE");
	if (!agent.nonce)
		agent.nonce = "-";
	agent.line_count = count ? (int)str_number(&count) : LINES_MAX;
	if (agent.line_count > LINES_MAX)
		agent.line_count = LINES_MAX;
	agent.late = env_get(env, "DUMM_LATE");
	agent.again = env_get(env, "DUMM_AGAIN");
	agent.is_init = true;
	agent.console = -1;
	size_t length = boot_mounts(config, sizeof config);
	const char *init = boot_configure(config, length);

	if (init) {
		/* The guest's own init is pid 1; the agent keeps serving as its child. */
		int told[2] = { -1, -1 };
		const char *variable = booted_expect(init);
		long error;

		SYS2(pipe2, told, O_CLOEXEC);
		long pid = SYS0(fork);

		if (pid > 0) {
			machine_set_apart((int)pid);
			run_init(init, variable, told[1]);
		}
		sys_close(&told[1]);
		/* A successful exec closes the other end. */
		if (sys_read(told[0], &error, sizeof error) == sizeof error)
			complain(init, error), booted_forget();
		sys_close(&told[0]);
		SYS0(setsid);
		/* systemd does not kill such a process at shutdown, nor wait 10 s for its end
		 * (systemd.io/ROOT_STORAGE_DAEMONS): the host needs its reports until then. */
		argv[0][0] = '@';
		agent.is_init = false;
		machine_protect();
	} else {
		agent.console = (int)sys_open("/dev/tty0", O_RDWR | O_NOCTTY | O_NONBLOCK);
	}
	module_serve();
	if (files)
		forget_beyond(str_number(&files));
	int signals = watch_signals();

	open_lines();
	boot_ready();
	if (booted_init())
		startup_run();
	loop(signals);
	return 0;
}

__asm__(".globl _start\n_start:\n\txor %ebp, %ebp\n\tmov %rsp, %rdi\n\tand $-16, %rsp\n\tcall start\n");

__attribute__((noreturn, used)) void start(long *sp);
void start(long *sp)
{
	sys_exit(agent_main((char **)(sp + 1), (char **)(sp + sp[0] + 2)));
}
