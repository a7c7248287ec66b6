/* Vector devices, the kernel's end of NICs. */
#ifndef DUMM_NIC_H
#define DUMM_NIC_H

#include "agent.h"

/* Before a device with this index is used, have the kernel copy packets that consist of several, which
 * its driver would send wrongly. Others than vector devices are left alone. */
void nic_prepare(int index);

#endif
