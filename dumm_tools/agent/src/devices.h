/* Device nodes that load their driver when they are opened. */
#ifndef DUMM_DEVICES_H
#define DUMM_DEVICES_H

void devices_make(void);

#endif
