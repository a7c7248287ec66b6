/* The table of an init: inittab(5), and its like for busybox. */
#ifndef DUMM_TABLE_H
#define DUMM_TABLE_H

#include "text.h"

/* Read /etc/inittab; false if there is none. */
bool table_read(void);

/* Whether the words are a command of the table that the init waits for, at this runlevel. With no words:
 * whether there is one at all. */
bool table_awaits(const char *words, char level);

#endif
