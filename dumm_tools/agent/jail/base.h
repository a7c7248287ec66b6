/* Included by all files here: errors, files, time, and children by pidfd (base.c). */
#ifndef DUMM_BASE_H
#define DUMM_BASE_H

#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

/* Descriptor for errors: one line, then the end. */
extern int status_fd;

void die(const char *format, ...) __attribute__((noreturn, format(printf, 1, 2)));
void write_file(const char *path, const char *text);

/* Seconds on a clock that nobody sets. */
time_t now(void);

/* Like fork(2), but start the child in new namespaces and, unless that is -1, in a control group
 * (version 2; a descriptor of its directory); store its pidfd in *pidfd. */
pid_t clone_into(unsigned long flags, int cgroup, int *pidfd);

/* The pid of a child as shown by /proc: in the pid namespace that /proc was mounted for, not in our
 * own, which a lab without root has for itself. */
pid_t proc_pid(int pidfd);

/* Write "PID STARTTIME" (proc_pid_stat(5), field 22) of a process; false if it has ended. */
bool write_pid(const char *path, int pidfd);

/* Pass a descriptor through a socket; receive_fd returns -1 if the other end closed it first. */
void send_fd(int socket, int fd);
int receive_fd(int socket);

#endif
