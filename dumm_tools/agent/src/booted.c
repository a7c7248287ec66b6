/* Whether the guest's own init has come up, found out without any program of the guest.
 *
 * systemd reports it to $NOTIFY_SOCKET (sd_notify(3)), as to a container manager; others are looked at.
 */
#include "booted.h"
#include "inits.h"
#include "power.h"

#define NAME "@dumm-agent"	/* an abstract socket: there is no file */
#define PIECE 4096

/* include/linux/socket.h, not in the uapi headers */
#define AF_UNIX 1
#define SOL_SOCKET 1
#define SO_PASSCRED 16
#define SCM_CREDENTIALS 2
#define SOCK_DGRAM 2
#define MSG_DONTWAIT 0x40
#define MSG_CMSG_CLOEXEC 0x40000000
#define CLOCK_MONOTONIC 1

static struct {
	enum init kind;
	int socket;
	bool up;		/* as it has reported: systemd only */
	int quiet;		/* looks in a row at which it rested */
	uint64_t looked;	/* milliseconds */
} booted = { .socket = -1 };

static int listen_to_systemd(void)
{
	struct {
		u16 family;
		char name[sizeof NAME - 1];
	} address = { AF_UNIX, NAME };
	size_t size = sizeof address.family + sizeof address.name;
	int fd = (int)SYS3(socket, AF_UNIX, SOCK_DGRAM | O_CLOEXEC | O_NONBLOCK, 0), on = 1;

	address.name[0] = 0;
	if (fd >= 0 && (SYS5(setsockopt, fd, SOL_SOCKET, SO_PASSCRED, &on, sizeof on) < 0 ||
			SYS3(bind, fd, &address, size) < 0))
		sys_close(&fd);
	return fd;
}

const char *booted_expect(const char *init)
{
	booted.kind = inits_kind(init);
	if (booted.kind != INIT_SYSTEMD)
		return NULL;
	booted.socket = listen_to_systemd();
	if (booted.socket >= 0)
		return "NOTIFY_SOCKET=" NAME;
	complain("socket", booted.socket);
	booted.kind = INIT_OTHER;
	return NULL;
}

void booted_forget(void)
{
	booted.kind = INIT_NONE;
}

const char *booted_kind(void)
{
	return inits_name(booted.kind);
}

/* ---- systemd ---- */

int booted_messages(void)
{
	return booted.socket;
}

static bool has_line(const char *text, const char *line)
{
	for (;;) {
		size_t n = str_len(line);

		if (str_starts(text, line) && (!text[n] || text[n] == '\n'))
			return true;
		while (*text && *text != '\n')
			text++;
		if (!*text++)
			return false;
	}
}

void booted_take(void)
{
	for (;;) {
		static char text[PIECE];
		struct {
			size_t length;
			int level, type;
			struct { u32 pid, uid, gid, pad; } sender;
		} control = { 0 };
		struct { char *base; size_t length; } piece = { text, sizeof text - 1 };
		struct {
			void *name;
			size_t name_length;
			void *pieces;
			size_t count;
			void *control;
			size_t control_length, flags;
		} message = { NULL, 0, &piece, 1, &control, sizeof control, 0 };
		long n = SYS3(recvmsg, booted.socket, &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);

		if (n < 0)
			return;
		text[n] = 0;
		if (control.type != SCM_CREDENTIALS || control.sender.pid != 1)
			continue;
		if (has_line(text, "READY=1"))	/* again, after a soft-reboot */
			booted.up = true, power_withdraw();
		if (has_line(text, "STOPPING=1"))
			power_announce();
	}
}

/* ---- any ---- */

void booted_terminated(int sender)
{
	/* (systemd does so, too: to what is left of its own scope once memory has run out.) */
	if (sender == 1 && booted.kind == INIT_BUSYBOX)
		power_announce();
}

bool booted_ends(void)
{
	if (!agent.ending && inits_ends(booted.kind))
		power_announce();
	return agent.ending;
}

void booted_look_again(void)
{
	booted.quiet = 0;
}

bool booted_must_look(void)
{
	return booted.kind > INIT_SYSTEMD;
}

bool booted_init(void)
{
	struct { long seconds, nanoseconds; } t = { 0, 0 };

	if (agent.ending)
		return false;
	if (!booted_must_look())
		return booted.kind == INIT_NONE || booted.up;
	if (booted.quiet < 2) {
		SYS2(clock_gettime, CLOCK_MONOTONIC, &t);
		uint64_t ms = (uint64_t)t.seconds * 1000 + (uint64_t)t.nanoseconds / 1000000;

		if (booted.looked && ms < booted.looked + BOOTED_LOOK)
			return false;
		booted.looked = ms;
		booted.quiet = inits_rests(booted.kind) ? booted.quiet + 1 : 0;
	}
	return booted.quiet >= 2;
}
