/* Netlink: the host talks to this guest's kernel over a line or, at boot, through a file. */
#ifndef DUMM_NET_H
#define DUMM_NET_H

#include "agent.h"

/* Pass messages of a line's client to the kernel; and pass on the kernel's answers. */
void net_send(struct line *l, const u8 *payload, u32 n);
void net_receive(struct line *l);

/* Let a line's client talk to another network namespace of the guest (netns.h), or to ours: 0. */
long net_enter(struct line *l, u32 number);

/* Bring the loopback device up. */
void net_loopback(void);

/* Send a message of the boot file, for the device of a slot. */
long net_apply(u32 slot, u8 *message, u32 n);

/* Whether it is the message that names the device and brings it up. */
bool net_names(const u8 *message, u32 n);
long net_route(u32 places, u8 *payload, u32 n);

#endif
