/* Netlink: the host talks to this guest's kernel over a line or, at boot, through a file. */
#include "net.h"
#include "line.h"
#include "netns.h"
#include "nic.h"

#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <linux/sockios.h>

#ifndef SOCK_RAW
#define AF_NETLINK 16
#define SOCK_RAW 3
#endif

/* The index of the device that a message is about, at the same offset in ifinfomsg, ifaddrmsg and
 * tcmsg. */
static int subject(const u8 *message)
{
	int index;

	memcpy(&index, message + sizeof(struct nlmsghdr) + 4, 4);
	return index;
}

void net_send(struct line *l, const u8 *payload, u32 n)
{
	if (l->netlink < 0)
		l->netlink = netns_own_socket();
	if (net_names(payload, n))
		nic_prepare(subject(payload));
	long r = SYS6(sendto, l->netlink, payload, n, 0, NULL, 0);

	if (r < 0) { /* answer as the kernel would */
		struct {
			struct nlmsghdr h;
			struct nlmsgerr e;
		} m = { { sizeof m, NLMSG_ERROR, 0, 0, 0 }, { (int)r, { 0 } } };

		memcpy(&m.e.msg, payload, n < sizeof m.e.msg ? n : sizeof m.e.msg);
		m.h.nlmsg_seq = m.e.msg.nlmsg_seq;
		line_send(l, ANSWER, &m, sizeof m);
	}
}

long net_enter(struct line *l, u32 number)
{
	sys_close(&l->netlink);
	long r = number ? netns_socket(number) : 0;

	if (number && r >= 0)
		l->netlink = (int)r;
	return r;
}

void net_receive(struct line *l)
{
	static u8 buf[32768];

	while (line_room(l) >= sizeof buf) {
		long n = SYS6(recvfrom, l->netlink, buf, sizeof buf, 0, NULL, NULL);

		if (n <= 0)
			return;
		line_send(l, ANSWER, buf, (u32)n);
		line_write(l);
	}
}

void net_loopback(void)
{
	struct nic_request r = { .name = "lo" };
	int s = (int)SYS3(socket, AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);

	SYS3(ioctl, s, SIOCGIFFLAGS, &r);
	r.flags |= 1 /* IFF_UP */;
	SYS3(ioctl, s, SIOCSIFFLAGS, &r);
	sys_close(&s);
}

static int index_of(int s, u32 slot)
{
	static int known[1024]; /* by slot: a device may be renamed after it was found */
	struct nic_request r = { .name = "vec" };

	if (slot >= 1024)
		return 0;
	if (known[slot])
		return known[slot];
	str_decimal(r.name + 3, r.name + sizeof r.name, slot);
	if (SYS3(ioctl, s, SIOCGIFINDEX, &r) < 0)
		return 0;
	return known[slot] = r.index;
}

static int boot_socket(void)
{
	static int s = -1;

	if (s < 0)
		s = (int)SYS3(socket, AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE);
	return s;
}

static long put_index(int s, u32 slot, u8 *message, u32 n, u32 at)
{
	int index = index_of(s, slot);

	if (!index)
		return -ENODEV;
	if (at + 4 > n)
		return -EINVAL;
	memcpy(message + at, &index, 4);
	return 0;
}

static long transact(int s, u8 *message, u32 n)
{
	static u8 answer[4096];
	struct nlmsghdr *h = (void *)message;

	h->nlmsg_len = n;
	h->nlmsg_flags |= NLM_F_REQUEST | NLM_F_ACK;
	long r = SYS6(sendto, s, message, n, 0, NULL, 0);

	if (r < 0)
		return r;
	for (;;) {
		r = SYS6(recvfrom, s, answer, sizeof answer, 0, NULL, NULL);
		if (r < (long)(sizeof *h + 4))
			return r < 0 ? r : -EIO;
		h = (void *)answer;
		if (h->nlmsg_type == NLMSG_ERROR)
			return *(int *)(answer + sizeof *h);
	}
}

/* Send a message of the boot file. The device's index was not known on the host. */
long net_apply(u32 slot, u8 *message, u32 n)
{
	int s = boot_socket();

	if (s < 0)
		return s;
	if (n < sizeof(struct nlmsghdr) + 8)
		return -EINVAL;
	long r = put_index(s, slot, message, n, sizeof(struct nlmsghdr) + 4);

	if (r < 0)
		return r;
	if (net_names(message, n))
		nic_prepare(subject(message));
	return transact(s, message, n);
}

bool net_names(const u8 *message, u32 n)
{
	const struct nlmsghdr *h = (const void *)message;

	return n >= sizeof *h + 8 && h->nlmsg_type == RTM_SETLINK;
}

/* Likewise, for a message with a number of devices, whose places come first. */
long net_route(u32 places, u8 *payload, u32 n)
{
	int s = boot_socket();

	if (s < 0)
		return s;
	if (n < 4 * places + sizeof(struct nlmsghdr) + 8)
		return -EINVAL;
	u8 *message = payload + 4 * places;

	n -= 4 * places;
	for (u8 *p = payload; p < message; p += 4) {
		u32 at = (u32)(p[0] | p[1] << 8), slot = (u32)(p[2] | p[3] << 8);

		if (at == 0 && index_of(s, slot))
			continue;
		if (at > 0 && at < sizeof(struct nlmsghdr))
			return -EINVAL;
		long r = put_index(s, slot, message, n, at);

		if (r < 0)
			return r;
	}
	return transact(s, message, n);
}
