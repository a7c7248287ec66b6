/* What all of it includes: failing, files, and children by pidfd (base.c). */
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
#include <unistd.h>

/* Where failures are told: one line, then the end. */
extern int status_fd;

void die(const char *format, ...) __attribute__((noreturn, format(printf, 1, 2)));
void write_file(const char *path, const char *text);

/* Start a child in new namespaces, and in a control group (version 2; a descriptor of its directory)
 * unless that is -1; its pidfd goes to *pidfd. As fork(2). */
pid_t clone_into(unsigned long flags, int cgroup, int *pidfd);

/* The pid of a child as /proc here shows it: that of the pid namespace that /proc was mounted for,
 * not of ours, which a lab without root has to itself. */
pid_t proc_pid(int pidfd);

/* Write "PID STARTTIME" (proc_pid_stat(5), field 22) of a child. */
void write_pid(const char *path, int pidfd);

/* Hand a descriptor to the other end of a socket; -1 when the other end closed it unused. */
void send_fd(int socket, int fd);
int receive_fd(int socket);

#endif
