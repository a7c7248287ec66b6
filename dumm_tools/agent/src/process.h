/* Reading /proc about the guest's processes. */
#ifndef DUMM_PROCESS_H
#define DUMM_PROCESS_H

#include "text.h"

/* "/proc/PID/NAME", which any process may have changed in the meantime; the next call replaces it. */
const char *process_path(const char *pid, const char *name);

/* Read such a file, as `read_whole` does. */
long process_read(const char *pid, const char *name, char *buf, size_t size);

/* Call `visit` for each name in a directory that is a number, until it says true; return whether it did. */
bool each_number(const char *directory, bool (*visit)(const char *, void *), void *with, u8 *buf, size_t size);

/* The fields of /proc/PID/stat (proc_pid_stat(5)) that matter. */
struct process {
	char state;
	u32 parent;
	bool has_reaped;	/* it has waited for a child: that one had page faults */
};

/* The process with this id, in digits; false if there is none. */
bool process_stat(const char *pid, struct process *s);

/* The words of its command line, separated by spaces. */
void process_words(const char *pid, char *buf, size_t size);

#endif
