/* The vector driver says that it can send packets with a list of further ones in them (NETIF_F_FRAGLIST),
 * but sends as many bytes from the first one's buffer, and whatever follows it in memory (prep_msg,
 * arch/um/drivers/vector_kern.c). IPTFS makes such packets, for example. Without this feature, they are
 * made one before the driver gets them (validate_xmit_skb, net/core/dev.c). */
#include "nic.h"

#include <linux/ethtool.h>
#include <linux/sockios.h>

/* Its number since Linux 2.6.24, in a header for the kernel only: include/linux/netdev_features.h. */
#define NETIF_F_FRAGLIST (1u << 6)
#define WORDS 2 /* of 32 features each: ETHTOOL_DEV_FEATURE_WORDS, net/ethtool/common.h */

void nic_prepare(int index)
{
	struct {
		u32 cmd, size;
		struct ethtool_set_features_block words[WORDS];
	} features = { ETHTOOL_SFEATURES, WORDS, { { NETIF_F_FRAGLIST, 0 } } };
	struct nic_request r = { .index = index };
	int s = (int)SYS3(socket, AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);

	/* It has its first name until it is set up. */
	if (SYS3(ioctl, s, SIOCGIFNAME, &r) == 0 && !memcmp(r.name, "vec", 3)) {
		r.data = &features;
		SYS3(ioctl, s, SIOCETHTOOL, &r);
	}
	sys_close(&s);
}
