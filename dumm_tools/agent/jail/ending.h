/* ending: see to it that a kernel which reboots or powers off comes to its end. */
#ifndef DUMM_ENDING_H
#define DUMM_ENDING_H

#include <stdbool.h>
#include <time.h>

/* To be called when the log has become longer. At a reboot, a kernel is left alone unless something
 * `restarts` it. */
void ending_look(bool restarts);

/* Seconds until ending_is_stuck() has to be asked; negative: never. */
time_t ending_wait(void);

/* Whether the kernel has said its last words, and is still there after a while. */
bool ending_is_stuck(void);

/* Whether these words announced a reboot. */
bool ending_in_reboot(void);

#endif
