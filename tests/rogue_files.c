/* Attempts that a compromised guest kernel would make against the server of its root file system, which
 * it talks to by vhost-user and FUSE. tests/test_rogue_files.py uses this program instead of the UML
 * binary.
 *
 * Each attempt is one line, `NAME: failed WHY` or `NAME: SUCCEEDED HOW`, on standard output. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/fuse.h>
#include <linux/virtio_ring.h>
#include <poll.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/un.h>
#include <unistd.h>

#define SOCKET "/files"
#define MEMORY (4 << 20)
#define QUEUE 64
#define PATIENCE 60000 /* ms */

/* Where things are in the memory that the server shares. */
#define RING(n) (0x10000 * (n))
#define REQUEST 0x100000
#define REPLY 0x200000
#define ROOM 0x100000

static char *memory;
static int memory_fd, channel, kick[2], called[2];
static uint16_t served[2];
static uint64_t tree; /* the node of the guest's root directory */

static void fail(const char *what)
{
	printf("fatal: %s: %s\n", what, strerror(errno));
	exit(1);
}

/* ---- vhost-user ---- */

static void tell(uint32_t request, const void *payload, uint32_t size, int fd)
{
	struct {
		uint32_t request, flags, size;
		char payload[256];
	} __attribute__((packed)) m = { request, 1, size, { 0 } };
	union {
		struct cmsghdr head;
		char room[CMSG_SPACE(sizeof fd)];
	} control;
	struct iovec data = { &m, 12 + size };
	struct msghdr to = { .msg_iov = &data, .msg_iovlen = 1 };

	memcpy(m.payload, payload, size);
	if (fd >= 0) {
		control.head = (struct cmsghdr){ .cmsg_len = CMSG_LEN(sizeof fd), .cmsg_level = SOL_SOCKET,
						 .cmsg_type = SCM_RIGHTS };
		memcpy(CMSG_DATA(&control.head), &fd, sizeof fd);
		to.msg_control = &control;
		to.msg_controllen = sizeof control;
	}
	if (sendmsg(channel, &to, MSG_NOSIGNAL) < 0)
		fail("sendmsg");
}

static uint64_t ask(uint32_t request)
{
	struct {
		uint32_t request, flags, size;
		uint64_t value;
	} __attribute__((packed)) m;

	tell(request, NULL, 0, -1);
	for (size_t n = 0; n < sizeof m;) {
		struct iovec data = { (char *)&m + n, sizeof m - n };
		struct msghdr from = { .msg_iov = &data, .msg_iovlen = 1 };
		ssize_t got = recvmsg(channel, &from, 0);

		if (got <= 0)
			fail("recvmsg");
		n += (size_t)got;
	}
	return m.value;
}

static void tell_number(uint32_t request, uint64_t value, int fd)
{
	tell(request, &value, sizeof value, fd);
}

static void tell_state(uint32_t request, uint32_t index, uint32_t value)
{
	tell(request, (uint32_t[]){ index, value }, 8, -1);
}

/* Pass our memory. The server's addresses are the kernel's: those of our mapping. */
static void table(void)
{
	uint64_t regions[5] = { 1, 0, MEMORY, (uint64_t)memory, 0 };

	tell(5, regions, sizeof regions, memory_fd);
}

static void attach(void)
{
	struct sockaddr_un name = { .sun_family = AF_UNIX, .sun_path = SOCKET };

	memory_fd = open("/dev/shm/memory", O_RDWR | O_CREAT, 0600);
	if (memory_fd < 0 || ftruncate(memory_fd, MEMORY))
		fail("memory");
	memory = mmap(NULL, MEMORY, PROT_READ | PROT_WRITE, MAP_SHARED, memory_fd, 0);
	channel = socket(AF_UNIX, SOCK_STREAM, 0);
	if (connect(channel, (struct sockaddr *)&name, sizeof name))
		fail("connect");
	ask(1);
	tell(3, NULL, 0, -1);
	tell_number(16, ask(15) & 1, -1);
	tell_number(2, 1ULL << 32 | 1ULL << 30, -1);
	table();
	for (uint32_t n = 0; n < 2; n++) {
		uint64_t at = (uint64_t)memory + RING(n);
		uint64_t places[] = { n, at, at + 0x4000, at + 0x2000, 0 };

		kick[n] = eventfd(0, 0);
		called[n] = eventfd(0, EFD_NONBLOCK);
		tell_state(8, n, QUEUE);
		tell_state(10, n, 0);
		tell(9, places, sizeof places, -1);
		tell_number(13, n, called[n]);
		tell_number(12, n, kick[n]);
		tell_state(18, n, 1);
	}
}

/* ---- a queue ---- */

static struct vring_desc *descriptors(int n)
{
	return (struct vring_desc *)(memory + RING(n));
}

/* Offer `count` chains of two descriptors, from descriptor 0 on, and wait until all have been served:
 * false if not. */
static bool offer_many(int n, uint16_t count)
{
	struct vring_avail *avail = (struct vring_avail *)(memory + RING(n) + 0x2000);
	volatile struct vring_used *used = (struct vring_used *)(memory + RING(n) + 0x4000);
	struct pollfd ends[] = { { called[n], POLLIN, 0 }, { channel, POLLIN, 0 } };
	uint64_t one = 1;

	for (uint16_t i = 0; i < count; i++)
		avail->ring[(uint16_t)(avail->idx + i) % QUEUE] = (uint16_t)(2 * i);
	__sync_synchronize();
	avail->idx = (uint16_t)(avail->idx + count);
	__sync_synchronize();
	if (write(kick[n], &one, sizeof one) != sizeof one)
		fail("kick");
	for (served[n] = (uint16_t)(served[n] + count); used->idx != served[n];) {
		if (poll(ends, 2, PATIENCE) <= 0 || ends[1].revents)
			return false;
		if (read(called[n], &one, sizeof one) < 0 && errno != EAGAIN)
			fail("read");
	}
	return true;
}

static bool offer(int n)
{
	return offer_many(n, 1);
}

/* A request; the result is an errno, or 0. The reply is at `memory + REPLY`, with its head. */
static int request(uint32_t opcode, uint64_t node, const void *in, uint32_t size, uint32_t length)
{
	struct fuse_in_header *head = (struct fuse_in_header *)(memory + REQUEST);
	struct fuse_out_header *reply = (struct fuse_out_header *)(memory + REPLY);

	*head = (struct fuse_in_header){ .len = length, .opcode = opcode, .unique = 1, .nodeid = node };
	memcpy(head + 1, in, size);
	memset(reply, 0, 4096);
	descriptors(1)[0] = (struct vring_desc){ REQUEST, sizeof *head + size, VRING_DESC_F_NEXT, 1 };
	descriptors(1)[1] = (struct vring_desc){ REPLY, ROOM, VRING_DESC_F_WRITE, 0 };
	if (!offer(1))
		return ESHUTDOWN;
	return -reply->error;
}

static int fuse(uint32_t opcode, uint64_t node, const void *in, uint32_t size)
{
	return request(opcode, node, in, size, (uint32_t)sizeof(struct fuse_in_header) + size);
}

static void *answer(void)
{
	return memory + REPLY + sizeof(struct fuse_out_header);
}

/* With arguments, then a name and perhaps a second one. */
static int named(uint32_t opcode, uint64_t node, const void *args, uint32_t size, const char *a,
		 const char *b)
{
	char in[8192];
	uint32_t n = size;

	memcpy(in, args, size);
	strcpy(in + n, a);
	n += (uint32_t)strlen(a) + 1;
	if (b) {
		strcpy(in + n, b);
		n += (uint32_t)strlen(b) + 1;
	}
	return fuse(opcode, node, in, n);
}

/* The node of a name in a directory; 0 if there is none (errno). */
static uint64_t look(uint64_t node, const char *name)
{
	errno = named(FUSE_LOOKUP, node, NULL, 0, name, NULL);
	return errno ? 0 : ((struct fuse_entry_out *)answer())->nodeid;
}

static uint64_t create(const char *name)
{
	struct fuse_create_in in = { .flags = O_RDWR | O_CREAT, .mode = S_IFREG | 0644 };

	errno = named(FUSE_CREATE, tree, &in, sizeof in, name, NULL);
	return errno ? 0 : ((struct fuse_entry_out *)answer())->nodeid;
}

static void say(const char *name, bool succeeded, const char *why)
{
	printf("%s: %s %s\n", name, succeeded ? "SUCCEEDED" : "failed", why);
	fflush(stdout);
}

/* ---- attempts ---- */

/* Names in the root of the server's own jail, which the guest's tree does not have. */
static bool look_beyond(uint64_t node)
{
	static const char *const names[] = { "serve", "shared", "processes" };

	for (size_t n = 0; n < sizeof names / sizeof *names; n++)
		if (look(node, names[n]))
			return true;
	return false;
}

static void climb(void)
{
	uint64_t at = tree;
	bool found = false;

	for (int i = 0; i < 10 && at && !found; i++) {
		at = look(at, "..");
		found = at && look_beyond(at);
	}
	say("parent-directories", found, strerror(errno));
}

static void slash(void)
{
	static const char *const names[] = { "../../serve", "../../..", "/serve", "/proc/self",
					     "etc/../../../serve", "../2" };
	bool found = false;

	for (size_t n = 0; n < sizeof names / sizeof *names && !found; n++) {
		uint64_t node = look(tree, names[n]);

		found = node && (look_beyond(node) || !strstr(names[n], ".."));
	}
	say("names-with-slashes", found, strerror(errno));
}

static void forge_nodes(void)
{
	struct fuse_getattr_in in = { 0 };
	int found = 0;

	for (uint64_t n = 1000; n < 5000; n++)
		found += !fuse(FUSE_GETATTR, n, &in, sizeof in);
	for (int bit = 13; bit < 64; bit++)
		found += !fuse(FUSE_GETATTR, 1ULL << bit, &in, sizeof in);
	say("forged-nodes", found, strerror(EBADF));
}

static void forge_handles(void)
{
	int found = 0;

	for (uint64_t n = 1000; n < 5000; n++) {
		struct fuse_read_in in = { .fh = n, .size = 4096 };

		found += !fuse(FUSE_READ, tree, &in, sizeof in);
	}
	say("forged-handles", found, strerror(EBADF));
}

static void follow(void)
{
	static const char *const targets[] = { "/etc/passwd", "/processes/self/root", "../../../etc",
					       "/proc/self/fd/0" };
	struct fuse_open_in open = { .flags = O_RDONLY };
	char name[32];
	bool found = false;
	int error = 0;

	for (size_t n = 0; n < sizeof targets / sizeof *targets; n++) {
		snprintf(name, sizeof name, "link%zu", n);
		named(FUSE_SYMLINK, tree, NULL, 0, name, targets[n]);
		uint64_t node = look(tree, name);

		error = node ? fuse(FUSE_OPEN, node, &open, sizeof open) : errno;
		found = found || !error || look(node, "passwd");
	}
	say("symbolic-links", found, strerror(error));
}

static void make_devices(void)
{
	static const uint32_t modes[] = { S_IFCHR, S_IFBLK };
	int error = 0;
	bool made = false;

	for (size_t n = 0; n < 2; n++)
		for (uint32_t minor = 0; minor < 8; minor++) {
			struct fuse_mknod_in in = { .mode = modes[n] | 0666, .rdev = 1 << 8 | minor };

			error = named(FUSE_MKNOD, tree, &in, sizeof in, n ? "disk" : "memory", NULL);
			made = made || !error;
		}
	say("device-nodes", made, strerror(error));
}

/* To overlayfs, such a node is a deleted file; the host lets anybody create one. */
static void make_whiteouts(void)
{
	struct fuse_mknod_in in = { .mode = S_IFCHR };
	int error = named(FUSE_MKNOD, tree, &in, sizeof in, "deleted", NULL);

	say("whiteouts", !error, strerror(error));
}

/* The tree of another guest, by its path on the host. */
static void visit(const char *path)
{
	static const char *const ups[] = { "", "..", "../..", "../../..", "../../../../../../../..",
					   "/processes/self/root", "/processes/1/cwd" };
	bool found = false;
	char name[4096];
	int error = ENOENT;

	for (size_t n = 0; n < sizeof ups / sizeof *ups && path; n++) {
		struct fuse_open_in open = { .flags = O_RDONLY };
		uint64_t node;

		snprintf(name, sizeof name, "%s%s", ups[n], path);
		found = found || look(tree, name) || look(1, name);
		error = errno;
		char link[32];

		snprintf(link, sizeof link, "visit%zu", n);
		named(FUSE_SYMLINK, tree, NULL, 0, link, name);
		node = look(tree, link);
		found = found || !fuse(FUSE_OPEN, node, &open, sizeof open) || look(node, "still-here");
	}
	say("other-trees", !path || found, path ? strerror(error) : "no path");
}

static int set(uint64_t node, const char *name, const char *value)
{
	struct fuse_setxattr_in in = { .size = (uint32_t)strlen(value) };
	char all[512];
	uint32_t n = sizeof in;

	memcpy(all, &in, n);
	strcpy(all + n, name);
	n += (uint32_t)strlen(name) + 1;
	memcpy(all + n, value, strlen(value));
	return fuse(FUSE_SETXATTR, node, all, n + (uint32_t)strlen(value));
}

/* The test looks for these on the host. */
static void set_attributes(void)
{
	static const char *const names[] = { "trusted.overlay.redirect", "user.overlay.redirect",
					     "trusted.overlay.opaque", "user.overlay.opaque" };
	uint64_t node = create("marked");
	int error = 0;

	for (size_t n = 0; n < sizeof names / sizeof *names; n++)
		error = set(node, names[n], "/master");
	error = set(node, "user.dumm.trusted.overlay.redirect", "/master");
	say("overlay-attributes", !error, strerror(error));
}

/* The test has marked this directory on the host: what is below it in the master is not shown. */
static void reset_attributes(void)
{
	static const char *const names[] = { "trusted.overlay.opaque", "user.overlay.opaque",
					     "user.dumm.trusted.overlay.opaque",
					     "user.dumm.user.overlay.opaque" };
	struct fuse_getxattr_in in = { .size = 4096 };
	uint64_t node = look(tree, "opaque");
	char why[128];
	int removed = 0, seen = 0;

	for (size_t n = 0; n < sizeof names / sizeof *names; n++) {
		seen += !named(FUSE_GETXATTR, node, &in, sizeof in, names[n], NULL);
		removed += !named(FUSE_REMOVEXATTR, node, NULL, 0, names[n], NULL);
	}
	if (!fuse(FUSE_LISTXATTR, node, &in, sizeof in))
		seen += ((struct fuse_out_header *)(memory + REPLY))->len > sizeof(struct fuse_out_header);
	snprintf(why, sizeof why, "%d seen, %d removed%s", seen, removed, node ? "" : "; no directory");
	say("marks-of-layers", !node || seen || removed, why);
}

/* Some of these end the server, and thereby us. */
static void mumble(void)
{
	struct fuse_read_in in = { .size = 0xffffffff };
	char junk[64];

	fuse(FUSE_READ, tree, &in, sizeof in);
	memset(junk, 0xff, sizeof junk);
	for (uint32_t opcode = 0; opcode < 64; opcode++) {
		if (opcode == FUSE_DESTROY || opcode == FUSE_FORGET || opcode == FUSE_BATCH_FORGET ||
		    opcode == FUSE_INTERRUPT) /* those are not answered */
			continue;
		request(opcode, tree, junk, sizeof junk, 40 + sizeof junk);
		request(opcode, 1, junk, 0, 40);
		request(opcode, tree, junk, sizeof junk, 0xffffffff);
	}
}

/* Each of these costs the server a descriptor. */
static void exhaust(void)
{
	struct fuse_open_in in = { .flags = O_RDONLY };
	uint64_t node = create("opened");
	char why[64];
	long n = 0, most = 4096 + (64 << 10);
	int error;

	while (!(error = fuse(FUSE_OPEN, node, &in, sizeof in)) && n <= most)
		n++;
	snprintf(why, sizeof why, "after %ld: %s", n, strerror(error));
	say("descriptors", n > most, why);
}

/* As many requests at a time as there is room for, each for a megabyte. */
static void crowd(void)
{
	enum { AT_ONCE = QUEUE / 2, ROUNDS = 300 };
	struct fuse_open_in open = { .flags = O_RDWR };
	uint64_t node = create("large");
	bool good = node && !fuse(FUSE_OPEN, node, &open, sizeof open);
	uint64_t handle = ((struct fuse_open_out *)answer())->fh;
	char why[64];
	int n = 0;

	for (int i = 0; i < AT_ONCE; i++) {
		struct fuse_in_header *head = (struct fuse_in_header *)(memory + REQUEST + 256 * i);
		struct fuse_read_in in = { .fh = handle, .size = ROOM - 4096 };
		uint32_t size = sizeof *head + sizeof in;

		*head = (struct fuse_in_header){ .len = size, .opcode = FUSE_READ, .nodeid = node,
						 .unique = (uint64_t)i };
		memcpy(head + 1, &in, sizeof in);
		descriptors(1)[2 * i] = (struct vring_desc){ REQUEST + 256 * (uint64_t)i, size,
							     VRING_DESC_F_NEXT,
							     (uint16_t)(2 * i + 1) };
		descriptors(1)[2 * i + 1] = (struct vring_desc){ REPLY, ROOM, VRING_DESC_F_WRITE, 0 };
	}
	while (good && n < ROUNDS && offer_many(1, AT_ONCE))
		n++;
	struct fuse_getattr_in in = { 0 };

	good = !fuse(FUSE_GETATTR, tree, &in, sizeof in);
	snprintf(why, sizeof why, "%d served", n * AT_ONCE);
	say("requests-in-flight", !good || n < ROUNDS, why);
}

/* Questions by vhost-user, whose answers are not read until no more of them fit. */
static void shout(void)
{
	enum { MOST = 50000 };
	uint32_t question[3] = { 1, 1, 0 };
	char answers[20 * 64], why[64];
	long sent = 0, got = 0;
	ssize_t n;

	while (sent < MOST && send(channel, question, sizeof question, MSG_DONTWAIT) == sizeof question)
		sent++;
	while (got < sent * 20 && (n = recv(channel, answers, sizeof answers, 0)) > 0)
		got += n;
	for (int i = 0; i < 1000; i++)
		table();
	snprintf(why, sizeof why, "%ld of %ld answered", got / 20, sent);
	struct fuse_getattr_in in = { 0 };

	say("messages", got != sent * 20 || fuse(FUSE_GETATTR, tree, &in, sizeof in), why);
}

/* A service of the host, in its network namespace, whose name is as long as the filter requires. */
static void connect_beyond(void)
{
	struct sockaddr_un name = { .sun_family = AF_UNIX };
	int fd = socket(AF_UNIX, SOCK_STREAM, 0);

	strcpy(name.sun_path + 1, "dumm-rogue");
	int error = connect(fd, (struct sockaddr *)&name, sizeof name) ? errno : 0;

	say("abstract-sockets", !error, strerror(error));
	close(fd);
}

/* More connections: the server has one. */
static void connect_more(void)
{
	struct sockaddr_un name = { .sun_family = AF_UNIX, .sun_path = SOCKET };
	uint32_t question[3] = { 1, 1, 0 };
	char why[64];
	int n = 0, answered = 0;

	for (; n < 1000; n++) {
		int fd = socket(AF_UNIX, SOCK_STREAM, 0);

		if (fd < 0 || fcntl(fd, F_SETFL, O_NONBLOCK) ||
		    connect(fd, (struct sockaddr *)&name, sizeof name))
			break;
		send(fd, question, sizeof question, MSG_NOSIGNAL);
		answered += poll(&(struct pollfd){ fd, POLLIN, 0 }, 1, 100) > 0;
	}
	snprintf(why, sizeof why, "%d waiting, %d answered: %s", n, answered, strerror(errno));
	say("connections", answered || n == 1000, why);
}

/* The server's view of our memory has no pages then. */
static void truncate_memory(void)
{
	uint64_t one = 1;
	volatile uint16_t *index = &((struct vring_avail *)(memory + RING(1) + 0x2000))->idx;

	*index = (uint16_t)(*index + 1);
	if (ftruncate(memory_fd, 0) || write(kick[1], &one, sizeof one) != sizeof one)
		fail("truncate");
	sleep(60);
}

/* A reply to where no memory of ours is. */
static void stray(void)
{
	struct fuse_in_header *head = (struct fuse_in_header *)(memory + REQUEST);

	*head = (struct fuse_in_header){ .len = sizeof *head, .opcode = FUSE_STATFS, .nodeid = 1 };
	descriptors(1)[0] = (struct vring_desc){ REQUEST, sizeof *head, VRING_DESC_F_NEXT, 1 };
	descriptors(1)[1] = (struct vring_desc){ 0x400000000, ROOM, VRING_DESC_F_WRITE, 0 };
	offer(1);
}

static void begin(void)
{
	struct fuse_init_in in = { .major = 7, .minor = 31, .max_readahead = 1 << 17,
				    .flags = FUSE_POSIX_ACL | FUSE_DONT_MASK | FUSE_SETXATTR_EXT };

	attach();
	if (fuse(FUSE_INIT, 0, &in, sizeof in))
		fail("FUSE_INIT");
	tree = look(1, "1");
	if (!tree)
		fail("root");
}

/* The value of our argument `name`, NULL if there is none. */
static const char *argument(char **argv, const char *name)
{
	size_t n = strlen(name);

	while (*++argv)
		if (!strncmp(*argv, name, n))
			return *argv + n;
	return NULL;
}

int main(int argc, char **argv)
{
	(void)argc;
	begin();
	climb();
	slash();
	forge_nodes();
	forge_handles();
	follow();
	make_devices();
	make_whiteouts();
	visit(argument(argv, "rogue.other="));
	set_attributes();
	reset_attributes();
	connect_beyond();
	connect_more();
	shout();
	crowd();
	exhaust();
	printf("done\n");
	fflush(stdout);
	if (argument(argv, "rogue.stray"))
		stray();
	else if (argument(argv, "rogue.truncated-memory"))
		truncate_memory();
	else
		mumble();
	printf("survived\n");
	fflush(stdout);
	for (;;)
		pause();
}
