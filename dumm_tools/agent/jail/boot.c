/* boot: execute a guest's kernel, at its start and again at each of its reboots.
 *
 *   /boot KERNEL_ARG...
 *
 * UML reboots by executing its argv[0] with the arguments of its start, in the same process
 * (arch/um/os-Linux/main.c): with the descriptors, signals and timers of the kernel that has ended. It is
 * therefore called by the name of this program, which leaves nothing of that kernel, and adds the NICs
 * that the guest has now.
 *
 * This runs in the jail, confined like the kernel itself: whatever the guest's root user has made of its
 * kernel can do the same without it. Nothing here protects the host.
 */
#include "boot.h"
#include "again.h"
#include "base.h"
#include "late.h"

#include <sys/time.h>

#define KERNEL "/kernel"		/* a link to it */
#define RECORDS "/xfer/boot"		/* BOOT_FILE, agent/src/protocol.h */
#define BOOT_NIC 'V'			/* the same */
#define LATE "DUMM_LATE="
#define AGAIN "DUMM_AGAIN="

/* Descriptors that a kernel may have: more than the limit of the jail. */
#define DESCRIPTORS 65536
/* The length of the kernel's command line (COMMAND_LINE_SIZE, arch/um/include/asm/setup.h), with a margin
 * for what UML adds. */
#define LINE_MAX 4000
#define NICS_MAX 1024

/* Kernels add to PATH at each boot. TMP: not TMPDIR, which a C library ignores if the real and effective
 * users differ (ld.so(8)). */
static char *const ENVIRONMENT[] = { "PATH=/usr/bin:/bin", "TMP=/dev/shm", NULL };

/* Whether we have added an argument at an earlier boot, or it is meant for us. */
static bool is_ours(const char *argument)
{
	return !strncmp(argument, LATE, strlen(LATE)) || !strncmp(argument, AGAIN, strlen(AGAIN)) ||
	       !strncmp(argument, AGAIN_KEEP, strlen(AGAIN_KEEP)) ||
	       (!strncmp(argument, "vec", 3) && argument[3] >= '0' && argument[3] <= '9');
}

/* The numbers of the first and last descriptor that the arguments mention; 0 and 1 are also ours. */
static void find_descriptors(char **argv, unsigned *first, unsigned *last)
{
	*first = ~0U;
	*last = 2;
	for (; *argv; argv++)
		for (const char *p = *argv; (p = strstr(p, "fd:")); p += 3) {
			unsigned n = (unsigned)strtoul(p + 3, NULL, 10);

			if (n >= DESCRIPTORS)
				continue;
			if (n > *last)
				*last = n;
			if (n > 2 && n < *first)
				*first = n;
		}
}

/* Close all other descriptors, taps among them, and have nobody send signals because of these. */
static void keep_descriptors(char **argv)
{
	unsigned first, last;

	find_descriptors(argv, &first, &last);
	if (first > 3)
		close_range(3, first - 1, 0);
	close_range(last + 1, ~0U, 0);
	for (unsigned fd = 0; fd <= last; fd++) {
		int flags = fcntl((int)fd, F_GETFL);

		if (flags >= 0)
			fcntl((int)fd, F_SETFL, flags & ~(O_ASYNC | O_NONBLOCK));
	}
}

/* End whatever processes and timers are left. We are not pid 1 of the jail, which is spared. */
static void end_processes(void)
{
	const struct itimerval never = { { 0, 0 }, { 0, 0 } };

	if (getppid() == 1) {
		kill(-1, SIGKILL);
		while (waitpid(-1, NULL, 0) > 0)
			;
	}
	for (int which = ITIMER_REAL; which <= ITIMER_PROF; which++)
		setitimer(which, &never, NULL);
}

/* Nothing is pending, ignored or blocked. The C library would refuse its own signals. */
static void reset_signals(void)
{
	struct {
		void (*handler)(int);
		unsigned long flags, restorer, mask;
	} ignore = { SIG_IGN, 0, 0, 0 }, standard = { SIG_DFL, 0, 0, 0 };
	sigset_t none;

	for (int n = 1; n < NSIG; n++) {
		syscall(SYS_rt_sigaction, n, &ignore, NULL, sizeof ignore.mask);
		syscall(SYS_rt_sigaction, n, &standard, NULL, sizeof standard.mask);
	}
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
}

/* The guest is not ready any more; return whether it has been before. Its umid directory, empty, is what
 * tells a crash from a halt. */
static bool clear_files(void)
{
	static const char *const stale[] = { "ending", "plug", "startup", "startup.log", "m/mconsole",
					     "m/pid" };

	umask(0);
	if (chdir("/run/uml"))
		die("cannot enter '/run/uml'");
	bool again = !unlink("ready");

	for (size_t i = 0; i < sizeof stale / sizeof *stale; i++)
		unlink(stale[i]);
	mkdir("m", 0700);
	if (chdir("/"))
		die("cannot enter '/'");
	return again;
}

/* The devices that the host has recorded for the guest, from records of TYPE 0 SLOT(2) LENGTH(4) PAYLOAD. */
static void read_nics(char **nics)
{
	static char text[1 << 20];
	int fd = open(RECORDS, O_RDONLY | O_CLOEXEC);
	size_t size = 0, n = 0;
	ssize_t got;
	__u32 length;

	if (fd < 0)
		die("cannot open '%s'", RECORDS);
	while ((got = read(fd, text + size, sizeof text - size)) > 0)
		size += (size_t)got;
	close(fd);
	for (char *p = text; size - (size_t)(p - text) >= 8 && n + 1 < NICS_MAX; p += 8 + length) {
		memcpy(&length, p + 4, 4);
		if (length > size - (size_t)(p - text) - 8)
			break;
		if (*p == BOOT_NIC && length && !p[8 + length - 1])
			nics[n++] = p + 8;
	}
}

/* Become the kernel. */
static void __attribute__((noreturn)) execute(char **argv)
{
	static char *nics[NICS_MAX], late[] = LATE "1", repeated[] = AGAIN "1";
	char kernel[4096], **next = nics;
	size_t length = sizeof late + sizeof repeated;
	int n = 1;
	bool again = clear_files(); /* first of all: it fails outside a jail */

	end_processes();
	reset_signals();
	read_nics(nics);
	for (char **from = argv + 1; *from; from++)
		if (!is_ours(*from)) {
			argv[n++] = *from;
			length += strlen(*from) + 1;
		}
	char **words = malloc(((size_t)n + NICS_MAX + 3) * sizeof *words);

	if (!words)
		die("cannot allocate memory");
	memcpy(words, argv, (size_t)n * sizeof *words);
	if (again)
		words[n++] = repeated;
	for (; *next && (length += strlen(*next) + 1) <= LINE_MAX; next++)
		words[n++] = *next;
	if (*next) {
		words[n++] = late;
		plug_later(next);
	}
	words[n] = NULL;
	ssize_t end = readlink(KERNEL, kernel, sizeof kernel - 1);

	if (end < 0)
		die("cannot read '%s'", KERNEL);
	kernel[end] = 0;
	execve(kernel, words, environ);
	die("cannot execute '%s'", kernel);
}

void run_boot(char **argv)
{
	again_if_kept();
	environ = (char **)ENVIRONMENT;
	keep_descriptors(argv);
	again(argv, execute);
	execute(argv);
}
