/* wire take DEVICE: print "ready", then the label and the length of each frame that arrives and
 * bears one, until that with the label "fence".
 * wire send DEVICE <LINES: send frames, given in hexadecimal, a line each.
 *
 * A label is the text between "label:" and ";" in a frame. */
#include <arpa/inet.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <net/if.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static unsigned char frame[1 << 17];

static int check(int result, const char *what)
{
	if (result < 0) {
		perror(what);
		exit(1);
	}
	return result;
}

static int take(int fd, struct packet_mreq *all)
{
	check(setsockopt(fd, SOL_PACKET, PACKET_ADD_MEMBERSHIP, all, sizeof *all), "membership");
	puts("ready");
	fflush(stdout);
	for (;;) {
		struct sockaddr_ll from;
		socklen_t size = sizeof from;
		int length = check(recvfrom(fd, frame, sizeof frame - 1, 0,
					    (struct sockaddr *)&from, &size), "recvfrom");
		char *label = memmem(frame, length, "label:", 6), *end;

		if (label == NULL || from.sll_pkttype == PACKET_OUTGOING)
			continue;
		end = memchr(label, ';', (char *)frame + length - label);
		if (end == NULL)
			continue;
		*end = '\0';
		printf("%s %d\n", label + 6, length);
		fflush(stdout);
		if (strcmp(label + 6, "fence") == 0)
			return 0;
	}
}

static int send_all(int fd)
{
	static char line[1 << 18];

	while (fgets(line, sizeof line, stdin)) {
		int length = strcspn(line, "\n") / 2;

		for (int i = 0; i < length; i++) {
			unsigned int byte;

			sscanf(line + 2 * i, "%2x", &byte);
			frame[i] = byte;
		}
		check(write(fd, frame, length), "write");
	}
	return 0;
}

int main(int argc, char **argv)
{
	int fd = check(socket(AF_PACKET, SOCK_RAW, htons(ETH_P_ALL)), "socket");
	struct sockaddr_ll at = { .sll_family = AF_PACKET, .sll_protocol = htons(ETH_P_ALL) };
	struct packet_mreq all = { .mr_type = PACKET_MR_PROMISC };

	if (argc != 3)
		return 2;
	all.mr_ifindex = at.sll_ifindex = if_nametoindex(argv[2]);
	check(bind(fd, (struct sockaddr *)&at, sizeof at), argv[2]);
	return strcmp(argv[1], "take") ? send_all(fd) : take(fd, &all);
}
