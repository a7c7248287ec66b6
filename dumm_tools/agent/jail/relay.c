/* The messages between a kernel and the server of its files: the vhost-user protocol (QEMU's
 * docs/interop/vhost-user.rst), by which the kernel passes its memory and queues. The files' contents
 * do not go this way.
 *
 * They need mending: before Linux 6.13 (or a little later), UML sends its table of memory regions with
 * room for two of them even if there is one, which virtiofsd refuses (vhost_user_set_mem_table,
 * arch/um/drivers/virtio_uml.c).
 */
#include "relay.h"
#include "base.h"

#include <poll.h>
#include <sys/socket.h>

#define MESSAGE_MAX 4096
#define DESCRIPTORS_MAX 8
#define SET_MEM_TABLE 5

struct region {
	__u64 guest, size, user, offset;
} __attribute__((packed));

struct message {
	__u32 request, flags, size;
	union {
		char bytes[MESSAGE_MAX];
		struct {
			__u32 count, padding;
			struct region regions[2];
		} __attribute__((packed)) table;
	} payload;
	int fds[DESCRIPTORS_MAX], count;
} __attribute__((packed));

#define HEAD offsetof(struct message, payload)

/* Room for descriptors in a message of sockets. */
union parcel {
	struct cmsghdr head;
	char room[CMSG_SPACE(sizeof(int) * DESCRIPTORS_MAX)];
};

static void collect(struct message *m, struct msghdr *from)
{
	for (struct cmsghdr *c = CMSG_FIRSTHDR(from); c; c = CMSG_NXTHDR(from, c)) {
		size_t n = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);

		if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
			continue;
		for (size_t i = 0; i < n; i++) {
			int fd;

			memcpy(&fd, CMSG_DATA(c) + i * sizeof fd, sizeof fd);
			if (m->count < DESCRIPTORS_MAX)
				m->fds[m->count++] = fd;
			else
				close(fd);
		}
	}
}

/* Read exactly this much of a message, and its descriptors. */
static bool fill(int socket, struct message *m, void *to, size_t size)
{
	while (size) {
		union parcel parcel;
		struct iovec data = { to, size };
		struct msghdr from = { .msg_iov = &data, .msg_iovlen = 1,
				       .msg_control = &parcel, .msg_controllen = sizeof parcel };
		ssize_t n = recvmsg(socket, &from, MSG_CMSG_CLOEXEC);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return false;
		collect(m, &from);
		to = (char *)to + n;
		size -= (size_t)n;
	}
	return true;
}

static bool receive(int socket, struct message *m)
{
	return fill(socket, m, m, HEAD) && m->size <= MESSAGE_MAX &&
	       fill(socket, m, m->payload.bytes, m->size);
}

static bool send_on(int socket, const struct message *m)
{
	union parcel parcel;
	struct iovec data = { (void *)m, HEAD + m->size };
	struct msghdr to = { .msg_iov = &data, .msg_iovlen = 1 };

	if (m->count) {
		size_t size = sizeof(int) * (size_t)m->count;

		memset(&parcel, 0, sizeof parcel);
		parcel.head = (struct cmsghdr){ .cmsg_len = CMSG_LEN(size), .cmsg_level = SOL_SOCKET,
						.cmsg_type = SCM_RIGHTS };
		memcpy(CMSG_DATA(&parcel.head), m->fds, size);
		to.msg_control = &parcel;
		to.msg_controllen = CMSG_SPACE(size);
	}
	return sendmsg(socket, &to, MSG_NOSIGNAL) == (ssize_t)data.iov_len;
}

static void mend(struct message *m)
{
	const size_t head = offsetof(struct message, payload.table.regions) - HEAD;

	if (m->request == SET_MEM_TABLE && m->size == sizeof m->payload.table &&
	    m->payload.table.count == 1)
		m->size = (__u32)(head + sizeof(struct region));
}

/* Pass on a message; false if `from` has been closed or sends something else. */
static bool pass(int from, int to)
{
	static struct message m;

	m.count = 0;
	bool good = receive(from, &m);

	if (good) {
		mend(&m);
		send_on(to, &m); /* if it has been closed, its own turn comes */
	}
	for (int i = 0; i < m.count; i++)
		close(m.fds[i]);
	return good;
}

bool relay(int kernels, int server)
{
	struct pollfd ends[] = { { kernels, POLLIN, 0 }, { server, POLLIN, 0 } };
	bool lost = false, over = false;
	int kernel = -1;

	while (!lost && !over) {
		if (poll(ends, 2, -1) < 0)
			continue;
		if (ends[1].revents)
			lost = !pass(server, kernel);
		if (!ends[0].revents)
			continue;
		if (kernel >= 0)
			over = !pass(kernel, server);
		else
			ends[0].fd = kernel = accept4(kernels, NULL, NULL, SOCK_CLOEXEC);
	}
	close(kernel);
	return !lost;
}
