/* A guest whose kernel has been taken over: it serves its lines, and lies on them.
 * tests/test_hostile.py uses this program instead of the UML binary; the guest's name, optionally
 * followed by a number, selects the lie. agent/src/protocol.h defines the protocol. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <poll.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#define LINES 18

static char lie[64];
static const char *nonce = "-";
static struct line {
	int in, out;
	unsigned char got[1 << 18];
	int length;
	bool escaped;
} lines[LINES];

static bool lies(const char *name)
{
	return !strcmp(lie, name);
}

static void say(struct line *l, char kind, const void *payload, uint32_t n, uint32_t claimed)
{
	static unsigned char buf[1 << 18];

	buf[0] = (unsigned char)kind;
	memcpy(buf + 1, &claimed, 3);
	memcpy(buf + 4, payload, n);
	for (uint32_t at = 0; at < n + 4;) {
		ssize_t put = write(l->out, buf + at, n + 4 - at);

		if (put > 0)
			at += (uint32_t)put;
		else
			poll(&(struct pollfd){ l->out, POLLOUT, 0 }, 1, 100);
	}
}

static void number(struct line *l, char kind, uint32_t n, uint32_t size)
{
	say(l, kind, &n, size, size);
}

/* Netlink messages of one kind, in one frame. */
static void netlink(struct line *l, uint16_t kind, uint16_t flags, const unsigned char *asked,
		    uint32_t body, int32_t first, int count)
{
	static unsigned char all[60000];
	uint32_t size = 16 + body;

	memset(all, 0, sizeof all);
	for (int i = 0; i < count; i++) {
		unsigned char *m = all + (size_t)i * size;

		memcpy(m, &size, 4);
		memcpy(m + 4, &kind, 2);
		memcpy(m + 6, &flags, 2);
		memcpy(m + 8, asked + 8, 4);
		memcpy(m + 16, &first, 4);
	}
	say(l, 'n', all, size * (uint32_t)count, size * (uint32_t)count);
}

static void hello(struct line *l, const unsigned char *theirs)
{
	char text[400];
	const char *trouble = "", *busy = "0000000000000000", *boot = nonce;

	if (lies("silent") || (lies("busy") && l > lines + 1))
		return;
	for (;;) {
		if (lies("up"))
			write(l->out, "b\010\0\0dumm-up\n", 12);
		else if (lies("noise"))
			say(l, 'o', text, sizeof text, sizeof text);
		else
			break;
	}
	if (lies("errno"))
		trouble = "/sys: errno 99999999999999999999";
	if (lies("escape"))
		trouble = "\033]0;owned\007";
	if (lies("busy"))
		busy = "000000000003fffc";
	if (lies("boot"))
		boot = "0123";
	memcpy(text, theirs, 16);
	int n = 16 + snprintf(text + 16, sizeof text - 16, "%s 7.2.0 %s %s", boot, busy, trouble);

	if (lies("words"))
		n = 30;
	say(l, 'r', text, (uint32_t)n, lies("long") ? 0xfffff0 : (uint32_t)n);
}

static void asked(struct line *l, const unsigned char *m)
{
	uint16_t kind;

	memcpy(&kind, m + 4, 2);
	if (lies("slow"))
		usleep(700000);
	if (lies("code"))
		netlink(l, 2, 0, m, 20, INT32_MIN, 1);
	else if (lies("kind"))
		netlink(l, 24, 2, m, 16, 0, 1);
	else if (lies("short"))
		netlink(l, (uint16_t)(kind - 2), 2, m, 2, 0, 1);
	else if (lies("dump"))
		for (;;)
			netlink(l, (uint16_t)(kind - 2), 2, m, 16, 0, 1000);
	else if (lies("routes") && kind == 26) {
		/* Routes with as many next hops as possible. */
		static unsigned char all[65000];
		uint32_t size = 64828, hops = 64784;
		uint16_t attribute[2] = { (uint16_t)(hops + 4), 9 };
		unsigned char head[28] = { 0 }, rtm[12] = { 2, 32, 0, 0, 254, 3, 0, 1 };

		head[4] = 24;
		head[6] = 2;
		memcpy(head, &size, 4);
		memcpy(head + 8, m + 8, 4);
		memcpy(head + 16, rtm, 12);
		memcpy(all, head, 28);
		memcpy(all + 28, "\010\0\001\0\012\0\0\001", 8);
		memcpy(all + 36, attribute, 4);
		for (uint32_t at = 40; at < size; at += 8)
			all[at] = 8;
		for (int i = 0; i < 120; i++)
			say(l, 'n', all, size, size);
		netlink(l, 3, 2, m, 4, 0, 1);
	} else
		netlink(l, 3, 2, m, 4, 0, 1); /* nothing, then silence */
}

static void run(struct line *l)
{
	if (lies("taken"))
		number(l, 'k', 0x60000000, 4);
	else if (lies("status"))
		number(l, 'x', 0xffffffff, 4);
	else if (lies("stopped"))
		number(l, 'x', 0x137f, 4);
	else if (lies("bulk"))
		number(l, 'j', 0, 0);
	else if (lies("file"))
		number(l, 'j', 7, 1);
	else if (lies("failed"))
		number(l, 'f', 0xfffffffe, 4);
	else if (lies("line"))
		number(l, 'a', 0x7fffffff, 4);
	else if (lies("unknown"))
		number(l, 'Z', 0, 4);
	else if (lies("large"))
		say(l, 'o', "", 0, 0xffffff);
	else if (lies("output"))
		for (;;)
			say(l, 'o', lines, 60000, 60000);
}

static void frame(struct line *l)
{
	switch (l->got[0]) {
	case 'R':
		hello(l, l->got + 1);
		break;
	case 'N':
		asked(l, l->got + 1);
		break;
	case 'X':
		run(l);
		break;
	case 'M':
		number(l, 'd', lies("done") ? 0xfffffffe : 2, 4);
		break;
	}
}

static void take(struct line *l)
{
	unsigned char buf[4096];
	ssize_t n = read(l->in, buf, sizeof buf);

	for (ssize_t i = 0; i < n; i++) {
		unsigned char c = buf[i];

		if (c == 0xc0) {
			if (l->length)
				frame(l);
			l->length = 0;
		} else if (c == 0xdb) {
			l->escaped = true;
		} else if (l->length < (int)sizeof l->got) {
			if (l->escaped)
				c = c == 0xdc ? 0xc0 : 0xdb;
			l->escaped = false;
			l->got[l->length++] = c;
		}
	}
}

static void mconsole(int fd)
{
	uint32_t answer[3 + 125] = { 0, lies("more"), lies("length") ? 0xffffffff : 500 };
	struct sockaddr_un client;
	socklen_t n = sizeof client;
	char buf[4096];

	if (recvfrom(fd, buf, sizeof buf, 0, (void *)&client, &n) < 0 || lies("silent"))
		return;
	memset(answer + 3, 'a', 500);
	do
		sendto(fd, answer, sizeof answer, 0, (void *)&client, n);
	while (lies("more"));
}

int main(int argc, char **argv)
{
	struct pollfd p[LINES + 1];
	struct sockaddr_un here = { .sun_family = AF_UNIX, .sun_path = "/run/uml/m/mconsole" };

	for (int i = 1, n, in, out; i < argc; i++) {
		if (!strncmp(argv[i], "DUMM_NONCE=", 11))
			nonce = argv[i] + 11;
		else if (sscanf(argv[i], "ssl%d=fd:%d,fd:%d", &n, &in, &out) == 3 && n < LINES) {
			lines[n].in = p[n].fd = in;
			lines[n].out = out;
			p[n].events = POLLIN;
		}
	}
	gethostname(lie, sizeof lie - 1);
	lie[strcspn(lie, "0123456789")] = 0;
	int ready = open("/run/uml/ready", O_WRONLY | O_CREAT | O_TRUNC, 0644);

	dprintf(ready, "%s", nonce);
	close(ready);
	p[LINES] = (struct pollfd){ socket(AF_UNIX, SOCK_DGRAM, 0), POLLIN, 0 };
	bind(p[LINES].fd, (void *)&here, sizeof here);
	for (;;) {
		poll(p, LINES + 1, -1);
		for (int i = 0; i < LINES; i++)
			if (p[i].revents & POLLIN)
				take(&lines[i]);
		if (p[LINES].revents & POLLIN)
			mconsole(p[LINES].fd);
	}
}
