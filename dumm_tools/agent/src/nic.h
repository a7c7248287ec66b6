/* Vector devices, the kernel's end of NICs. */
#ifndef DUMM_NIC_H
#define DUMM_NIC_H

#include "agent.h"

/* include/linux/socket.h, not in the uapi headers */
#ifndef SOCK_CLOEXEC
#define AF_INET 2
#define SOCK_DGRAM 2
#define SOCK_CLOEXEC O_CLOEXEC
#endif

/* struct ifreq of linux/if.h, which would include many socket types of libc */
struct nic_request {
	char name[16];
	union {
		int index;
		short flags;
		void *data;
		char rest[24];
	};
};

/* Before a device with this index is used, have the kernel copy packets that consist of several, which
 * its driver would send wrongly. Others than vector devices are left alone. */
void nic_prepare(int index);

#endif
