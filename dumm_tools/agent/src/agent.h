/* The agent: first process of a guest, and the host's hand inside it.
 *
 * The protocol on a line (client.py is the other end, protocol.py its words). One client at a time holds a line.
 *
 * To the guest, a frame is END TYPE PAYLOAD END, where END in type and payload is sent as ESC ESC_END
 * and ESC as ESC ESC_ESC (SLIP, RFC 1055): wherever a dead client stopped, the next END ends it.
 * To the host, a frame is TYPE LENGTH(3 bytes, little endian) PAYLOAD; a new client throws away
 * all that comes before the answer to its own HELLO, which it knows by 16 random bytes.
 *
 * No more than LINE_WINDOW bytes may be on their way to the agent. Its terminal holds 4096; a UML kernel
 * that has to throttle it never listens to that line again (line_throttle, arch/um/drivers/line.c).
 */
#ifndef DUMM_AGENT_H
#define DUMM_AGENT_H

#include "sys.h"

#define END 0xc0
#define ESC 0xdb
#define ESC_END 0xdc
#define ESC_ESC 0xdd

/* Host to guest. */
enum {
	HELLO = 'R',	/* nonce(16): drop what an earlier client left, answer READY */
	RUN = 'X',	/* flags(1) rows(2) cols(2) argc(2), then NUL-ended: user, cwd, args, environment */
	INPUT = 'I',	/* bytes for the program's stdin, INPUT_WINDOW unacknowledged at most */
	BULK = 'J',	/* which(1) length(4): bytes for stdin in the host's file xfer/LINE.WHICH */
	INPUT_END = 'E',/* stdin ends here */
	SIGNAL = 'S',	/* number(1), to the program's process group */
	RESIZE = 'W',	/* rows(2) cols(2) of the program's terminal */
	NETLINK = 'N',	/* route netlink messages for this guest's kernel */
	MODULE = 'M',	/* the name of a kernel module to load, with what it needs */
	STORE = 'F',	/* path NUL value: write value to a file, such as a sysctl */
	POWER = 'P',	/* 'o' power off, 'r' reboot */
};

/* Guest to host. */
enum {
	READY = 'r',	/* nonce(16), then text: boot nonce, kernel release, other lines that run a
			 * program (a bit each, hexadecimal), what failed at boot */
	OUTPUT = 'o',	/* bytes from stdout or the terminal */
	ERRORS = 'e',	/* bytes from stderr */
	TAKEN = 'k',	/* length(4): so many INPUT bytes were taken */
	BULK_TAKEN = 'j',/* which(1) */
	DEAF = 'c',	/* the program reads its stdin no more */
	STATUS = 'x',	/* wait status(4) of the program; nothing follows */
	FAILED = 'f',	/* errno(4), then text: the program could not be started */
	ANSWER = 'n',	/* netlink messages */
	DONE = 'd',	/* errno(4): how MODULE or STORE ended */
	TAKEN_LINE = 'a',/* count(4) of bytes read from the line since HELLO: now and then, and after SIGNAL */
	UP = 'b',	/* "dumm-up\n": once, when the agent has opened the line */
};

/* A client that said HELLO before says it again. */
#define OPENED "b\010\0\0dumm-up\n"

#define RUN_TTY 1
#define INPUT_WINDOW 16384
#define LINES_MAX 64
#define LINE_WINDOW 3072
#define IN_MAX (192 << 10)	/* one frame to the guest: arguments and environment */
#define OUT_MAX (64 << 10)
#define FEED_ROOM 64		/* for the frames that say what a program took of its stdin */

struct program {
	int pid;		/* 0: none */
	int status;		/* wait status, once `gone` */
	bool gone, tty, input_ended;
	int in, out, err;	/* our ends: pipes, or in == out == the terminal's master */
	int started;		/* the child writes here why it could not start */
};

struct line {
	int number;		/* ttyS<number> in the guest */
	int fd;
	bool greeted;
	u8 *in, *out;		/* mapped while greeted */
	u32 in_len, out_pos, out_len;
	u32 taken, told;	/* bytes read since HELLO; and what the client knows of */
	bool tell;		/* it wants to know now */
	bool in_frame, escaped, overlong;
	u8 *pending;		/* INPUT not yet written to the program */
	u32 pending_len, pending_pos;
	bool pending_bulk;	/* it came from a file: acknowledged there */
	int bulk;		/* descriptor of the file that is being fed, or -1 */
	u8 bulk_queue[2];
	u32 bulk_left[2];
	int bulks;
	int netlink;
	struct program program;
};

struct agent {
	const char *nonce;
	char release[65];
	char trouble[200];	/* what failed at boot */
	int host;		/* O_PATH descriptor of the jail's root, seen through hostfs */
	bool is_init;
	struct line lines[LINES_MAX];
	int line_count, open_count;
	int console_pid;	/* the shell that serves the raw console */
	int console;
};

extern struct agent agent;

/* boot.c */
void boot_mounts(void);
const char *boot_configure(char *buf, size_t size);
void boot_ready(void);
void complain(const char *what, long error);

/* line.c */
bool line_open(int number);
void line_read(struct line *l);
void line_write(struct line *l);
bool line_send(struct line *l, u8 type, const void *payload, u32 n);
u32 line_room(const struct line *l);
void line_work(struct line *l);

/* program.c */
void program_run(struct line *l, u8 *payload, u32 n);
void program_input(struct line *l, const u8 *payload, u32 n);
void program_bulk(struct line *l, const u8 *payload, u32 n);
void program_feed(struct line *l);
void program_drain(struct line *l, int *fd, u8 type);
void program_started(struct line *l);
void program_finish(struct line *l);
void program_drop(struct line *l);
void program_signal(const struct program *p, int number);
void console_shell(void);

/* child.c: between fork and exec */
void child_exec(int tell, u8 flags, char *user, char *cwd, char **argv, char **env, int *fds)
	__attribute__((noreturn));
void child_reset_signals(void);

/* net.c */
void net_send(struct line *l, const u8 *payload, u32 n);
void net_receive(struct line *l);
void net_loopback(void);
long net_apply(u32 slot, u8 *message, u32 n);

/* module.c */
long module_load(const char *name);

/* power.c */
void power(char how) __attribute__((noreturn));

#endif
