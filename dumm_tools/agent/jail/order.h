/* The options of the jail. */
#ifndef DUMM_ORDER_H
#define DUMM_ORDER_H

#include "base.h"

#include <sys/resource.h>

/* A part of the jail's file system. */
struct step {
	const char *what, *a, *b;
	int tree;
};

/* The kind of program: its capabilities and system calls depend on it. */
enum role {
	KERNEL,			    /* a guest's kernel, whose files are reached through hostfs */
	CLIENT,			    /* one whose files are served by another program */
	SERVER,			    /* that program */
};

struct order {
	struct step steps[1024];
	int n;			    /* steps */
	const char *pid_file;
	int errors;		    /* descriptor for error messages */
	int turn;		    /* descriptor of a lock held by the launcher; -1: none */
	unsigned hold, holds;	    /* first of the keeper's descriptors, and their number */
	int log;		    /* one of them, for the program's output; -1: none */
	int peer;		    /* one of them, a socket: its other end lives as long as the jail; -1 */
	int listen;		    /* one of them, for the program as well; -1: none */
	enum role role;
	const char *cgroup;
	const char *hostname;
	uid_t user;		    /* the program's real user; 0: root */
	gid_t group;		    /* its supplementary group; 0: none */
	rlim_t data, processes, files, signals; /* limits; 0: none */
	bool passing;		    /* whether it may pass descriptors in messages */
	char **argv;
};

/* Parse the command line into *o; errors are mistakes of the caller. */
bool parse(int argc, char **argv, struct order *o);

#endif
