/* stream PORT: accept one TCP connection, and read it to its end.
 * stream PORT ADDRESS BYTES: connect, send that many bytes, wait until the other side has read them. */
#include <arpa/inet.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

static char buf[1 << 17];

static void check(int failed, const char *what)
{
	if (failed) {
		perror(what);
		exit(1);
	}
}

int main(int argc, char **argv)
{
	int s = socket(AF_INET, SOCK_STREAM, 0), on = 1;
	struct sockaddr_in at = { .sin_family = AF_INET, .sin_port = htons(atoi(argv[1])) };

	setsockopt(s, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
	if (argc == 2) {
		check(bind(s, (struct sockaddr *)&at, sizeof at) || listen(s, 1), "listen");
		puts("listening");
		fflush(stdout);
		int c = accept(s, NULL, NULL);

		check(c < 0, "accept");
		while (read(c, buf, sizeof buf) > 0)
			;
		return 0;
	}
	inet_pton(AF_INET, argv[2], &at.sin_addr);
	check(connect(s, (struct sockaddr *)&at, sizeof at), "connect");
	for (long left = atol(argv[3]); left > 0;) {
		ssize_t n = write(s, buf, left < (long)sizeof buf ? (size_t)left : sizeof buf);

		check(n < 0, "write");
		left -= n;
	}
	shutdown(s, SHUT_WR);
	return read(s, buf, 1) != 0; /* until the other side closes */
}
