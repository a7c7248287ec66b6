/* The protocol on a line. client.py is the other end; protocol.py defines the same names and numbers,
 * which a test compares. Only one client at a time can use a line.
 *
 * To the guest, a frame is END TYPE PAYLOAD END, where END in type and payload is sent as ESC ESC_END
 * and ESC as ESC ESC_ESC (SLIP, RFC 1055): wherever a dead client stopped, the next END terminates it.
 * To the host, a frame is TYPE LENGTH(3 bytes, little endian) PAYLOAD; a new client discards all data
 * before the answer to its own HELLO, which it recognizes by 16 random bytes.
 *
 * At most LINE_WINDOW bytes may be in flight to the agent. Its terminal holds 4096; a UML kernel that
 * has to throttle it never reads from that line again (line_throttle, arch/um/drivers/line.c).
 */
#ifndef DUMM_PROTOCOL_H
#define DUMM_PROTOCOL_H

#define END 0xc0
#define ESC 0xdb
#define ESC_END 0xdc
#define ESC_ESC 0xdd

#define HEAD 4			/* the type and the length of a frame to the host */
#define NONCE 16		/* bytes of a client's nonce */
#define READY_MAX 400		/* the largest payload of READY */
#define FAILED_MAX 200		/* ... and of FAILED */
#define HELD_MAX 4096		/* ... and of HELD */
#define IN_MAX (192 << 10)	/* one frame to the guest: arguments and environment */
#define OUT_MAX (64 << 10)	/* all queued data for the host, including a frame with its head */
#define INPUT_WINDOW 16384
#define LINE_WINDOW 3072

/* Host to guest. */
enum {
	HELLO = 'R',	/* nonce(16): discard data of earlier clients, answer READY */
	RUN = 'X',	/* flags(1) rows(2) cols(2) argc(2), then NUL-terminated: user, cwd, args, environment */
	INPUT = 'I',	/* bytes for the program's stdin, at most INPUT_WINDOW unacknowledged */
	BULK = 'J',	/* which(1) length(4): bytes for stdin in the host's file xfer/LINE.WHICH */
	INPUT_END = 'E',/* stdin ends here */
	SIGNAL = 'S',	/* number(1), to the program's process group */
	RESIZE = 'W',	/* rows(2) cols(2) of the program's terminal */
	NETLINK = 'N',	/* route netlink messages for this guest's kernel */
	NETNS = 'G',	/* number(4): NETLINK goes to this one of the guest's other network namespaces, from
			 * 1 on, or to the agent's own (0); DONE with ENOENT after the last one */
	MODULE = 'M',	/* the name of a kernel module to load, with its dependencies */
	STORE = 'F',	/* path NUL value: write value to a file, such as a sysctl */
	LAYERS = 'L',	/* tag NUL directory NUL: make a directory of this virtiofs the root file system,
			 * or, with an empty tag, /guest of the jail */
	HOLDERS = 'H',	/* ask who still uses the root file system before the last LAYERS */
	POWER = 'P',	/* POWER_OFF or POWER_REBOOT */
	STATE = 'B',	/* answer TAKEN_LINE, and BOOTED as soon as the guest has booted */
};

/* Guest to host. */
enum {
	READY = 'r',	/* nonce(16), then text: boot nonce, kernel release, other lines that run a
			 * program (a bit each, hexadecimal), what failed at boot: after a '!', why
			 * this boot will never be ready */
	OUTPUT = 'o',	/* bytes from stdout or the terminal */
	ERRORS = 'e',	/* bytes from stderr */
	TAKEN = 'k',	/* length(4) of INPUT bytes that were consumed */
	BULK_TAKEN = 'j',/* which(1) */
	DEAF = 'c',	/* the program no longer reads its stdin */
	STATUS = 'x',	/* wait status(4) of the program; nothing follows */
	FAILED = 'f',	/* errno(4), then text: the program could not be started */
	ANSWER = 'n',	/* netlink messages */
	DONE = 'd',	/* errno(4): result of NETNS, MODULE, STORE or LAYERS */
	HELD = 'h',	/* answer to HOLDERS, in lines: pid, 'n' (in a mount namespace of its own) or 'f'
			 * (with files), command */
	TAKEN_LINE = 'a',/* count(4) of bytes read from the line since HELLO: from time to time, after SIGNAL and after STATE */
	UP = 'b',	/* "dumm-up\n": once, when the agent has opened the line */
	BOOTED = 's',	/* text: the kind of init (none, systemd, inittab, openrc, runit or other), and what became of
			 * the startup program (none, running, done, or failed with an exit status) */
};

/* A client that has sent HELLO before sends it again. */
#define OPENED "b\010\0\0dumm-up\n"

/* A flag of RUN: stdin, stdout and stderr are a terminal. */
#define RUN_TTY 1

enum {
	POWER_OFF = 'o',
	POWER_REBOOT = 'r',
};

/* The host's instructions for the boot: records of TYPE 0 SLOT(2) LENGTH(4) PAYLOAD in a file with this
 * name in the jail and in run/NAME. */
#define BOOT_FILE "xfer/boot"

enum {
	BOOT_HOSTNAME = 'H',
	BOOT_INIT = 'I',	/* the path of the guest's own init */
	BOOT_KEYS = 'K',	/* names in /etc/ssh, each terminated by NUL: the master's host keys */
	BOOT_MODULE = 'M',	/* the name of a kernel module */
	BOOT_NETLINK = 'N',	/* a netlink message for the device of a slot */
	BOOT_NIC = 'V',		/* the device as an argument of the kernel: for the jail (jail/boot.c) */
	BOOT_OWN = 'O',		/* path NUL text NUL: a file to be written over one of the master */
	BOOT_ROOT = 'F',	/* where the root is: the tag of a virtiofs and a directory in it, each with
				 * a NUL; without this record, it is hostfs */
	BOOT_ROUTE = 'R',	/* SLOT times PLACE(2) SLOT(2), then a netlink message that has the index of
				 * the slot's device at each place; a place of 0: the device must be there */
	BOOT_DISK = 'U',	/* the disk with the number SLOT, ubdb being 0, must be there */
	BOOT_STARTUP = 'S',	/* a program to run once the guest's init has come up, as in RUN; SLOT is
				 * STARTUP_SCRIPT or STARTUP_SERVICE */
};

/* The agent writes the host's file STARTUP_FILE to argv[0], and has the program run it that its first line
 * names. */
#define STARTUP_SCRIPT 1
/* The guest counts as booted as soon as the program runs. */
#define STARTUP_SERVICE 2
#define STARTUP_FILE "xfer/startup"
#define STARTUP_MAX (1 << 20)	/* bytes in it */
#define BOOTED_MAX 64		/* the largest payload of BOOTED */

#endif
