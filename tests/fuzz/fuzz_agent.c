/* libFuzzer's cases for the agent: input from the host on a line, and contents of the guest's files.
 *
 * The kernel below it is simulated: it reads the case, and accepts all output after checking that it
 * consists of frames. A case is the number of the line's bytes (2 bytes, little endian), these bytes,
 * the data of all other reads, and at the end choices: errors, sizes of pieces, the side of a fork.
 */
#define OTHER_KERNEL
#include "../../dumm_tools/agent/src/agent.h"

#include <setjmp.h>

void *calloc(size_t n, size_t size);
void free(void *p);
void abort(void) __attribute__((noreturn));

/* The C library's functions, which the sanitizers know, replace the agent's own of these names. */
#define memcpy own_memcpy
#define memmove own_memmove
#define memset own_memset
#define memcmp own_memcmp
#include "../../dumm_tools/agent/src/text.c"
#undef memcpy
#undef memmove
#undef memset
#undef memcmp
#include "../../dumm_tools/agent/src/account.c"
#include "../../dumm_tools/agent/src/agent.c"
#include "../../dumm_tools/agent/src/boot.c"
#include "../../dumm_tools/agent/src/booted.c"
#include "../../dumm_tools/agent/src/child.c"
#include "../../dumm_tools/agent/src/clock.c"
#include "../../dumm_tools/agent/src/console.c"
#include "../../dumm_tools/agent/src/devices.c"
#include "../../dumm_tools/agent/src/holders.c"
#include "../../dumm_tools/agent/src/inits.c"
#include "../../dumm_tools/agent/src/input.c"
#include "../../dumm_tools/agent/src/layers.c"
#include "../../dumm_tools/agent/src/line.c"
#include "../../dumm_tools/agent/src/log.c"
#include "../../dumm_tools/agent/src/machine.c"
#include "../../dumm_tools/agent/src/module.c"
#include "../../dumm_tools/agent/src/net.c"
#include "../../dumm_tools/agent/src/netns.c"
#include "../../dumm_tools/agent/src/nic.c"
#include "../../dumm_tools/agent/src/power.c"
#include "../../dumm_tools/agent/src/process.c"
#include "../../dumm_tools/agent/src/program.c"
#include "../../dumm_tools/agent/src/request.c"
#include "../../dumm_tools/agent/src/serve.c"
#include "../../dumm_tools/agent/src/served.c"
#include "../../dumm_tools/agent/src/startup.c"
#include "../../dumm_tools/agent/src/table.c"

#define MAPS 64
#define LINE 3

static struct {
	const u8 *line, *file, *choice;
	size_t line_left, file_left, choices;
	void *map[MAPS];
	int maps, next_fd, calls;
	jmp_buf end;
} k;

static u32 choose(u32 n)
{
	if (!k.choices)
		return 0;
	k.choices--;
	return *k.choice++ % n;
}

static long give(void *p, size_t n, const u8 **from, size_t *left)
{
	if (n > *left)
		n = *left;
	memcpy(p, *from, n);
	*from += n;
	*left -= n;
	return (long)n;
}

/* Whether the data consists of whole frames, each of a length that protocol.py accepts. */
static void check(const u8 *p, size_t n)
{
	while (n) {
		size_t size, least = 0, most = OUT_MAX - HEAD;

		if (n < HEAD || HEAD + (size = p[1] | p[2] << 8 | (size_t)p[3] << 16) > n)
			abort();
		switch (p[0]) {
		case READY:
			least = NONCE + 6, most = READY_MAX;
			break;
		case FAILED:
			least = 4, most = FAILED_MAX;
			break;
		case TAKEN:
		case STATUS:
		case DONE:
		case TAKEN_LINE:
			least = most = 4;
			break;
		case UP:
			least = most = 8;
			break;
		case BULK_TAKEN:
			least = most = 1;
			break;
		case HELD:
			most = HELD_MAX;
			break;
		case DEAF:
			most = 0;
			break;
		case BOOTED:
			most = BOOTED_MAX;
			break;
		case OUTPUT:
		case ERRORS:
		case ANSWER:
			break;
		default:
			abort();
		}
		if (size < least || size > most)
			abort();
		p += HEAD + size;
		n -= HEAD + size;
	}
}

static long map(size_t n)
{
	if (k.maps == MAPS || choose(64) == 63)
		return -ENOMEM;
	return (long)(k.map[k.maps++] = calloc(1, n));
}

static void unmap(void *p)
{
	for (int i = 0; i < k.maps; i++)
		if (k.map[i] == p) {
			free(p);
			k.map[i] = k.map[--k.maps];
			return;
		}
	abort();
}

static long choose_init(char *buf, size_t size)
{
	static const char *const names[] = { "/lib/systemd/systemd", "/sbin/init", "/bin/busybox",
					     "/sbin/openrc-init" };

	return str_copy(buf, buf + size, names[choose(4)]) - buf;
}

/* A message to the socket that systemd reports to, from any process. */
static long take_message(long *message)
{
	struct { char *base; size_t length; } *piece = (void *)message[2];

	if (choose(4) == 3)
		return -EAGAIN;
	((u32 *)message[4])[3] = SCM_CREDENTIALS;
	((u32 *)message[4])[4] = choose(3);
	return give(piece->base, piece->length, &k.file, &k.file_left);
}

long sys(long n, long a, long b, long c, long d, long e, long f)
{
	struct line *l = &agent.lines[LINE];

	(void)d, (void)e, (void)f;
	if (k.calls++ > 100000)
		longjmp(k.end, 1);
	switch (n) {
	case __NR_read:
		if (a == l->fd)
			return give((void *)b, choose(4) ? 1 + choose(200) : (size_t)c, &k.line,
				    &k.line_left);
		if (choose(8) == 7)
			return -EAGAIN;
		return give((void *)b, (size_t)c, &k.file, &k.file_left);
	case __NR_pread64:
	case __NR_getdents64:
		return give((void *)b, (size_t)c, &k.file, &k.file_left);
	case __NR_recvmsg:
		return take_message((void *)b);
	case __NR_readlink:
		return choose_init((char *)b, (size_t)c);
	case __NR_recvfrom:
		return choose(4) == 3 ? -EAGAIN : give((void *)b, (size_t)c, &k.file, &k.file_left);
	case __NR_pwrite64:
		return choose(8) == 7 ? -ENOSPC : c;
	case __NR_write:
		if (choose(4) == 3)
			return -EAGAIN;
		if (a == l->fd)
			check((const u8 *)b, (size_t)c);
		else if (c > 1 && choose(4) == 2)
			return c / 2;
		return c;
	case __NR_mmap:
		return map((size_t)b);
	case __NR_munmap:
		unmap((void *)a);
		return 0;
	case __NR_openat:
	case __NR_socket:
		return choose(8) == 7 ? -ENOENT : k.next_fd++;
	case __NR_pipe2:
		if (choose(16) == 15)
			return -EMFILE;
		((int *)a)[0] = k.next_fd++;
		((int *)a)[1] = k.next_fd++;
		return 0;
	case __NR_fork:
		return choose(4) == 3 ? 0 : choose(16) == 15 ? -ENOMEM : 100;
	case __NR_ioctl:
		if (b == (long)TIOCGPTPEER)
			return choose(8) == 7 ? -EIO : k.next_fd++;
		if (b == SIOCGIFINDEX)
			((struct nic_request *)c)->index = (int)choose(3);
		return 0;
	case __NR_wait4:
		return -ECHILD;
	case __NR_sendto:
		return choose(4) == 3 ? -EPERM : c;
	case __NR_execve:
		return choose(2) ? -ENOEXEC : -ENOENT;
	case __NR_exit_group:
		longjmp(k.end, 1);
	default:
		return choose(32) == 31 ? -EPERM : 0;
	}
}

long sys_spawn(void *stack_end, void (*run)(void *), void *with)
{
	long pid = SYS0(fork);

	(void)stack_end;
	if (pid == 0)
		run(with);
	return pid;
}

/* A round of main.c's loop, with all possible events. */
static void round(struct line *l)
{
	struct program *p = &l->program;

	if (l->netlink >= 0)
		net_receive(l);
	if (p->started >= 0)
		program_started(l);
	if (p->out >= 0)
		program_drain(l, &p->out, OUTPUT);
	if (p->err >= 0)
		program_drain(l, &p->err, ERRORS);
	if (booted_messages() >= 0)
		booted_take();
	if (startup_report() >= 0)
		startup_started();
	if (startup_output() >= 0)
		startup_drain();
	if (startup_is_waiting() && booted_init())
		startup_run();
	if (startup.pid && choose(8) == 7)
		startup_reap(startup.pid, (int)choose(1 << 16));
	serve_read(l);
	if (p->pid && choose(8) == 7) {
		request_left(p->pid);
		p->gone = true;
	}
	serve_work(l);
}

static void play(void)
{
	static char config[256 << 10];

	if (choose(4) == 3)
		boot_configure(config, sizeof config);
	if (choose(2))
		booted_expect("/sbin/init");
	if (!line_open(LINE))
		return;
	if (choose(8) != 7)
		hello(&agent.lines[LINE], (const u8 *)"sixteen bytes...");
	for (int i = 0; i < 32 || (k.line_left && i < 2000); i++)
		round(&agent.lines[LINE]);
}

int LLVMFuzzerTestOneInput(const u8 *data, size_t size)
{
	if (size < 2)
		return 0;
	size_t length = data[0] | data[1] << 8, rest;

	data += 2;
	size -= 2;
	if (length > size)
		length = size;
	rest = size - length;
	memset(&agent, 0, sizeof agent);
	memset(&k, 0, sizeof k);
	base[0] = 0;
	used = spare = NULL;
	memset(&startup, 0, sizeof startup);
	startup.out = startup.report = -1;
	memset(&booted, 0, sizeof booted);
	booted.socket = -1;
	memset(&log, 0, sizeof log);
	log.fd = -1;
	k.line = data;
	k.line_left = length;
	k.file = data + length;
	k.file_left = rest - rest / 4;
	k.choice = k.file + k.file_left;
	k.choices = rest / 4;
	k.next_fd = 10;
	agent.nonce = "0123456789abcdef";
	str_copy(agent.release, agent.release + sizeof agent.release, "7.2.0");
	if (!setjmp(k.end))
		play();
	while (k.maps)
		free(k.map[--k.maps]);
	return 0;
}
