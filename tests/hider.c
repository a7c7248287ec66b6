/* A server of files that becomes another user, so that the first process of its jail may not send it
 * signals, and does nothing else. tests/test_virtiofs.py uses it in place of virtiofsd. */
#define _GNU_SOURCE
#include <poll.h>
#include <stdio.h>
#include <unistd.h>

int main(void)
{
	fprintf(stderr, "%s\n", setresuid(4242, 4242, 4242) ? "refused" : "hidden");
	for (;;)
		poll(NULL, 0, -1);
}
