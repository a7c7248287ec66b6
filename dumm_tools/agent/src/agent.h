/* The agent: the first process of a guest, which acts for the host inside it. Its global state. */
#ifndef DUMM_AGENT_H
#define DUMM_AGENT_H

#include "protocol.h"
#include "text.h"

#define LINES_MAX 64

struct program {
	int pid;		/* 0: none */
	int status;		/* wait status, once `gone` */
	bool gone, tty, input_ended;
	bool ends;		/* if it succeeds, the guest ends */
	int in, out, err;	/* our ends: pipes, or in == out == the terminal's master */
	int started;		/* where the child reports why it could not start */
};

struct line {
	int number;		/* ttyS<number> in the guest */
	int fd;
	bool greeted;
	u8 *in, *out;		/* mapped while greeted */
	u32 in_len, out_pos, out_len;
	u32 taken, told;	/* bytes read since HELLO; and those reported to the client */
	bool tell;		/* report them now */
	bool in_frame, escaped, overlong;
	u8 *pending;		/* INPUT not yet written to the program */
	u32 pending_len, pending_pos;
	bool pending_bulk;	/* it came from a file: acknowledged there */
	int bulk;		/* descriptor of the file that is being fed, or -1 */
	u8 bulk_queue[2];
	u32 bulk_left[2];
	int bulks;
	int netlink;
	bool asked;		/* the client waits for BOOTED */
	struct program program;
};

struct agent {
	const char *nonce;
	char release[65];
	char useless[64];	/* why this boot will never be ready; empty: it will */
	char trouble[200];	/* what else failed at boot */
	int host;		/* O_PATH descriptor of the jail's root, seen through hostfs */
	bool is_init;
	bool ending;		/* the guest is about to end */
	bool late;		/* whether NICs are missing that can be asked for */
	bool again;		/* whether the guest was ready before, and has rebooted */
	struct line lines[LINES_MAX];
	int line_count, open_count;
	int console_pid;	/* the shell that serves the raw console */
	int console;
};

extern struct agent agent;

/* Files outside the guest's tree, which jail/boot.c removes: the nonce of a boot that is ready; an
 * empty one if it is about to end; and one that asks for missing NICs (jail/late.c). Not removed, until
 * the next start: one that says that the guest has got files of its own (machine.h). */
#define READY_FILE "run/uml/ready"
#define ENDING_FILE "run/uml/ending"
#define PLUG_FILE "run/uml/plug"
#define OWN_FILE "run/uml/own"

/* Create such a file; return the kernel's result. */
long write_host(const char *path, const char *text);

/* Record a failure: it is reported to the host with READY, and on the console immediately. */
void complain(const char *what, long error);

/* Likewise, one that the guest is useless with; only the first is reported. An error of 0 is not shown. */
void give_up(const char *what, long error);

#endif
