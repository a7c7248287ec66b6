/* Netlink: the host speaks to this guest's kernel through a line; at boot, from a file. */
#ifndef DUMM_NET_H
#define DUMM_NET_H

#include "agent.h"

/* Give the kernel messages of a line's client; and send it what the kernel says. */
void net_send(struct line *l, const u8 *payload, u32 n);
void net_receive(struct line *l);

/* Bring the loopback device up. */
void net_loopback(void);

/* Send one message of the boot file, for the device of a slot. */
long net_apply(u32 slot, u8 *message, u32 n);

#endif
