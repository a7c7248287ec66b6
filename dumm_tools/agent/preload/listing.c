/* listing: directories for a guest's kernel, which reads them by opendir(3) and its like.
 *
 * hostfs opens a directory anew for each getdents of the guest, and goes on at the offset of the last name
 * (hostfs_readdir, fs/hostfs/hostfs_kern.c). But the offsets of an overlay change with the directory: when
 * it is first changed, and if it is in several layers, with each change. `rm -r` of a large directory
 * would miss most of it. A directory that the kernel closes before its end, or at it, is therefore kept
 * open here, and the next who wants to go on at that offset continues with it: overlayfs shows an open
 * directory as it was when reading began.
 *
 * The loader links this in front of the C library in the jail (/etc/ld.so.preload). Nothing here may wait
 * or allocate memory: it runs within the guest's kernel, on its stack.
 */
#include "../src/sys.h"

typedef uint64_t u64;

#define KEPT 32 /* directories that can be kept open; then the one kept for the longest time goes */

struct entry { /* linux_dirent64, and the C library's struct dirent */
	u64 inode;
	long next; /* offset of the name after this one */
	u16 length;
	u8 type;
	char name[];
};

enum { FREE, BUSY, WAITING };

struct directory {
	int state, fd;
	u32 since; /* when it was kept: a count of such events */
	bool end;
	u32 size, at, last; /* of the buffer: filled, read, start of the entry that was read last */
	long offset, before; /* of the next name, and of the one that was read last */
	u64 device, inode;
	char buffer[4096] __attribute__((aligned(8)));
};

static struct directory directories[KEPT];
static u32 count;

int *__errno_location(void); /* the C library's */

#define EXPORT __attribute__((visibility("default")))
struct directory *opendir(const char *path);
struct entry *readdir64(struct directory *d);
struct entry *readdir(struct directory *d);
long telldir(struct directory *d);
void seekdir(struct directory *d, long offset);
int closedir(struct directory *d);

static bool take(struct directory *d, int state)
{
	return __atomic_compare_exchange_n(&d->state, &state, BUSY, false, __ATOMIC_ACQUIRE,
					   __ATOMIC_RELAXED);
}

static void give(struct directory *d, int state)
{
	if (state == FREE)
		sys_close(&d->fd);
	__atomic_store_n(&d->state, state, __ATOMIC_RELEASE);
}

static struct directory *take_any(void)
{
	for (;;) {
		struct directory *oldest = NULL;

		for (struct directory *d = directories; d < directories + KEPT; d++) {
			if (take(d, FREE))
				return d;
			if (d->state == WAITING && (!oldest || d->since - oldest->since > ~0U / 2))
				oldest = d;
		}
		if (!oldest)
			return NULL;
		if (take(oldest, WAITING)) {
			sys_close(&oldest->fd);
			return oldest;
		}
	}
}

/* Read on from an offset, with an empty buffer. */
static void restart(struct directory *d, long offset)
{
	d->size = d->at = d->last = 0;
	d->offset = d->before = offset;
	d->end = false;
}

EXPORT struct directory *opendir(const char *path)
{
	struct stat_ {
		u64 device, inode, rest[16];
	} status;
	int fd = (int)sys_open(path, O_RDONLY | O_DIRECTORY);
	long r = fd < 0 ? fd : SYS2(fstat, fd, &status);
	struct directory *d = r < 0 ? NULL : take_any();

	if (!d) {
		*__errno_location() = r < 0 ? (int)-r : EMFILE;
		sys_close(&fd);
		return NULL;
	}
	d->fd = fd;
	d->device = status.device;
	d->inode = status.inode;
	restart(d, 0);
	return d;
}

EXPORT struct entry *readdir64(struct directory *d)
{
	if (d->at >= d->size) {
		long n = SYS3(getdents64, d->fd, d->buffer, sizeof d->buffer);

		d->end = n == 0;
		d->at = 0;
		d->size = n > 0 ? (u32)n : 0;
		if (n < 0)
			*__errno_location() = (int)-n;
		if (n <= 0)
			return NULL;
	}
	struct entry *e = (void *)(d->buffer + d->at);

	d->last = d->at;
	d->at += e->length;
	d->before = d->offset;
	d->offset = e->next;
	return e;
}

EXPORT struct entry *readdir(struct directory *d)
{
	return readdir64(d);
}

EXPORT long telldir(struct directory *d)
{
	return d->offset;
}

static bool goes_on(const struct directory *old, const struct directory *d, long offset)
{
	return old->offset == offset && old->device == d->device && old->inode == d->inode;
}

/* The directory that was kept last at this offset: others may have left theirs there long ago, which do not
 * show what has changed since. */
static struct directory *kept(const struct directory *d, long offset)
{
	struct directory *newest = NULL;

	for (struct directory *old = directories; old < directories + KEPT; old++)
		if (old->state == WAITING && goes_on(old, d, offset) &&
		    (!newest || old->since - newest->since < ~0U / 2))
			newest = old;
	return newest;
}

/* Go on with that directory. */
static bool resume(struct directory *d, struct directory *old, long offset)
{
	if (!take(old, WAITING))
		return false;
	if (!goes_on(old, d, offset)) { /* another one by now */
		give(old, WAITING);
		return false;
	}
	int fd = d->fd;

	restart(d, offset);
	d->fd = old->fd;
	d->size = old->size - old->at;
	for (u32 i = 0; i < d->size; i++)
		d->buffer[i] = old->buffer[old->at + i];
	old->fd = fd;
	give(old, FREE);
	return true;
}

EXPORT void seekdir(struct directory *d, long offset)
{
	struct directory *old;

	while (offset && (old = kept(d, offset)))
		if (resume(d, old, offset))
			return;
	SYS3(lseek, d->fd, offset, 0 /* SEEK_SET */);
	restart(d, offset);
}

/* The kernel stops at the end, or at a name that the guest's buffer has no room for: it wants that one
 * first when it goes on. At the end it asks once more. */
EXPORT int closedir(struct directory *d)
{
	if (!d->end && d->at > d->last) {
		d->at = d->last;
		d->offset = d->before;
	} else if (d->offset == d->before) { /* nothing was read */
		d->offset = 0;
	}
	if (d->offset)
		d->since = __atomic_add_fetch(&count, 1, __ATOMIC_RELAXED);
	give(d, d->offset ? WAITING : FREE);
	return 0;
}
