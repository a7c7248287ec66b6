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

struct order {
	struct step steps[1024];
	int n;			    /* steps */
	const char *pid_file;
	int errors;		    /* descriptor for error messages */
	int turn;		    /* descriptor of a lock held by the launcher; -1: none */
	unsigned hold, holds;	    /* first of the keeper's descriptors, and their number */
	int log;		    /* one of them, for the program's output; -1: none */
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
