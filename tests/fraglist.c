/* fraglist DEVICE...: for each device, whether it gets packets with a list of others in them. */
#include <linux/ethtool.h>
#include <linux/sockios.h>
#include <net/if.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

int main(int argc, char **argv)
{
	int s = socket(AF_INET, SOCK_DGRAM, 0);

	for (int i = 1; i < argc; i++) {
		struct {
			struct ethtool_gfeatures head;
			struct ethtool_get_features_block words[2];
		} features = { { .cmd = ETHTOOL_GFEATURES, .size = 2 }, { { 0 } } };
		struct ifreq r = { .ifr_data = (void *)&features };

		strncpy(r.ifr_name, argv[i], sizeof r.ifr_name - 1);
		if (ioctl(s, SIOCETHTOOL, &r) < 0) {
			perror(argv[i]);
			return 1;
		}
		/* NETIF_F_FRAGLIST and NETIF_F_SG, include/linux/netdev_features.h */
		printf("%s %u %u\n", argv[i], features.words[0].active >> 6 & 1, features.words[0].active & 1);
	}
	return 0;
}
