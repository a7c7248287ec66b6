/* The server of the root file system has a descriptor for each of its files that the guest's kernel
 * remembers, and the kernel only forgets files when memory is short. If the server may have fewer
 * descriptors than fit into the memory, every new file would then be refused (ENFILE), to everybody.
 * Nothing reports that a limit is near, so the number of inodes is read from time to time: the fewer
 * are left, the sooner.
 */
#include "forget.h"
#include "agent.h"

/* No guest looks up so many files in a millisecond; 25 have been measured. */
#define FASTEST 100
#define SHORTEST 10 /* ms */
#define LONGEST 5000
/* The server hears of forgotten files only after a while: how many may come in the meantime. */
#define MARGIN 8000

static int inodes = -1, caches = -1;
static u32 limit, bar, count;

static u32 read_count(void)
{
	char text[64], *p = text;
	long n = SYS4(pread64, inodes, text, sizeof text - 1, 0);

	text[n < 0 ? 0 : n] = 0;
	return str_number((const char **)&p);
}

static void write_caches(const char *text)
{
	SYS4(pwrite64, caches, text, str_len(text), 0);
}

static void set_bar(void)
{
	bar = limit > MARGIN / 2 * 3 ? limit - MARGIN : limit / 3;
	/* The rest is in use, or not the server's: do not try again at once. */
	if (bar < count + limit / 4)
		bar = count + limit / 4;
}

void forget_beyond(u32 descriptors)
{
	limit = descriptors;
	set_bar();
	/* Inodes of all file systems are counted: rather too many than too few. */
	inodes = (int)sys_open("/proc/sys/fs/inode-nr", O_RDONLY);
	caches = (int)sys_open("/proc/sys/vm/drop_caches", O_WRONLY);
	if (inodes < 0 || caches < 0) {
		complain("/proc/sys", inodes < 0 ? inodes : caches);
		limit = 0;
	}
	write_caches("4"); /* say nothing in the kernel's log, from now on */
}

void forget_look(void)
{
	if (!limit)
		return;
	count = read_count();
	if (count < bar)
		return;
	write_caches("2"); /* inodes, and names */
	count = read_count();
	set_bar();
}

int forget_patience(void)
{
	u32 left = bar > count ? (bar - count) / FASTEST : 0;

	if (!limit)
		return -1;
	return left < SHORTEST ? SHORTEST : left > LONGEST ? LONGEST : (int)left;
}
