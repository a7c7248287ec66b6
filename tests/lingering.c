/* A server of files that does not end with its connection. If there is a PROGRAM.real, that serves until
 * then; otherwise it closes the connection at once. tests/test_virtiofs.py uses it in place of
 * virtiofsd. */
#define _GNU_SOURCE
#include <poll.h>
#include <stdio.h>
#include <unistd.h>

int main(int argc, char **argv)
{
	char real[256];

	snprintf(real, sizeof real, "%s.real", argv[0]);
	if (argc > 1 && fork() == 0) {
		execv(real, argv);
		_exit(1);
	}
	close_range(3, ~0U, 0);
	for (;;)
		poll(NULL, 0, -1);
}
