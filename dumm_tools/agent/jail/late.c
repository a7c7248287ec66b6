/* NICs that do not fit on the kernel's command line are plugged in through its mconsole, as the host
 * does it (linux/mconsole.py), by a process in the jail: no command may run when a guest reboots.
 *
 * The agent asks for them by creating a file: before that, the kernel may not be ready for them.
 */
#include "late.h"
#include "base.h"

#include <sys/socket.h>
#include <sys/un.h>

#define ASKED "run/uml/plug"
#define MCONSOLE "run/uml/m/mconsole"
/* Look for the file so often, and so many times: a minute. */
#define LOOK_NS 5000000
#define LOOKS 12000

/* struct mconsole_request, arch/um/drivers/mconsole.h */
struct request {
	__u32 magic, version, length;
	char data[512];
};

static bool is_asked_for(void)
{
	for (int i = 0; i < LOOKS; i++) {
		if (!unlink(ASKED))
			return true;
		nanosleep(&(struct timespec){ 0, LOOK_NS }, NULL);
	}
	return false;
}

static void plug(char **nics)
{
	struct sockaddr_un to = { .sun_family = AF_UNIX, .sun_path = MCONSOLE };
	int s = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);

	for (; *nics; nics++) {
		struct request r = { .magic = 0xcafebabe, .version = 2 };
		int n = snprintf(r.data, sizeof r.data, "config %s", *nics);

		r.length = (__u32)n;
		/* This waits while the kernel has not read earlier ones. The agent sees what is missing. */
		sendto(s, &r, sizeof r, MSG_NOSIGNAL, (struct sockaddr *)&to, sizeof to);
	}
}

void plug_later(char **nics)
{
	pid_t pid = fork();

	if (pid < 0)
		die("cannot start a process");
	if (pid > 0) {
		waitpid(pid, NULL, 0);
		return;
	}
	/* Not a child of the kernel, which does not know it. */
	if (fork())
		_exit(0);
	close_range(0, ~0U, 0);
	if (is_asked_for())
		plug(nics);
	_exit(0);
}
