/* From the kernel's first exec to a guest that answers. */
#include "boot.h"
#include "clock.h"
#include "devices.h"
#include "machine.h"
#include "module.h"
#include "net.h"
#include "served.h"
#include "startup.h"

#define RO_EXEC (MS_RDONLY | MS_NOSUID | MS_NODEV)

static void mount_on(const char *type, const char *path, int mode, long flags, const char *data)
{
	long r = sys_mount(type, path, type, flags, data);

	if (r == -ENOENT) { /* any tree can be a master: create what it lacks */
		sys_mkdir(path, mode);
		r = sys_mount(type, path, type, flags, data);
	}
	if (r < 0 && r != -EBUSY)
		complain(path, r);
}

static void mount_modules(void)
{
	char pack[160], here[160];

	str_copy(str_copy(pack, pack + sizeof pack, "/usr/lib/uml/modules/"), pack + sizeof pack,
		 agent.release);
	char *p = str_copy(here, here + sizeof here, "/lib/modules/");

	str_copy(p, here + sizeof here, agent.release);
	long r = sys_mount("modules", here, "hostfs", RO_EXEC, pack);

	if (r == -ENOENT) {
		/* A mount point that is not a change to the guest's files. */
		if (sys_mount("tmpfs", "/lib/modules", "tmpfs", MS_NOSUID | MS_NODEV, "mode=755") < 0) {
			sys_mkdir("/lib", 0755);
			sys_mkdir("/lib/modules", 0755);
		}
		if (sys_mkdir(here, 0755) == 0)
			sys_mount("modules", here, "hostfs", RO_EXEC, pack);
	}
}

/* Read BOOT_FILE; return its length. */
static size_t read_instructions(char *buf, size_t size)
{
	int fd = (int)sys_openat(agent.host, BOOT_FILE, O_RDONLY | O_CLOEXEC, 0);
	long n = fd < 0 ? fd : read_whole(fd, buf, size);

	sys_close(&fd);
	if (n < 0) {
		complain(BOOT_FILE, n);
		return 0;
	}
	if ((size_t)n + 1 == size) /* the rest is missing */
		complain(BOOT_FILE, -E2BIG);
	return (size_t)n;
}

struct instruction {
	u8 type, *payload;
	u32 slot, length;
};

/* The instruction at *next, which is moved on; false after the last one. */
static bool take(u8 **next, u8 *end, struct instruction *i)
{
	u8 *p = *next;

	if (end - p < 8)
		return false;
	*i = (struct instruction){ p[0], p + 8, (u32)(p[2] | p[3] << 8), 0 };
	memcpy(&i->length, p + 4, 4);
	if (i->length > (u32)(end - i->payload))
		return false;
	*next = i->payload + i->length;
	return true;
}

/* Mount what is to become the root on /root; the jail's root is on /host. */
static void mount_root(u8 *next, u8 *end)
{
	struct instruction i;
	long r;

	while (take(&next, end, &i)) {
		const char *tag = (const char *)i.payload, *directory = tag;

		if (i.type != BOOT_ROOT || !i.length || i.payload[i.length - 1])
			continue;
		directory += str_len(tag) + 1;
		if (directory < tag + i.length && (r = mount_served(tag, directory, "/root")) < 0)
			give_up("virtiofs", r);
		return;
	}
	if ((r = sys_mount("root", "/root", "hostfs", 0, "/guest")) < 0)
		give_up("its root", r);
}

void boot_release(void)
{
	struct {
		char sysname[65], nodename[65], release[65], version[65], machine[65], domain[65];
	} name;

	SYS1(uname, &name);
	str_copy(agent.release, agent.release + sizeof agent.release, name.release);
}

size_t boot_mounts(char *buf, size_t size)
{
	long r;

	boot_release();
	/* The jail's root, for ourselves only: a descriptor of a mount that no path leads to. */
	sys_mkdir("/host", 0700);
	if ((r = sys_mount("host", "/host", "hostfs", MS_NOSUID | MS_NODEV, "/")) < 0)
		give_up("hostfs", r);
	agent.host = (int)sys_open("/host", O_PATH | O_DIRECTORY);
	size_t length = read_instructions(buf, size);

	sys_mkdir("/root", 0755);
	mount_root((u8 *)buf, (u8 *)buf + length);
	SYS2(umount2, "/host", MNT_DETACH);
	SYS1(chdir, "/root");
	sys_mount(".", "/", NULL, MS_MOVE, NULL);
	SYS1(chroot, ".");
	SYS1(chdir, "/");

	mount_on("proc", "/proc", 0555, MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL);
	mount_on("sysfs", "/sys", 0555, MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL);
	mount_on("devtmpfs", "/dev", 0755, MS_NOSUID, "mode=755");
	mount_on("devpts", "/dev/pts", 0755, MS_NOSUID | MS_NOEXEC, "gid=5,mode=620,ptmxmode=666");
	mount_on("tmpfs", "/dev/shm", 01777, MS_NOSUID | MS_NODEV, "mode=1777");
	mount_on("tmpfs", "/run", 0755, MS_NOSUID | MS_NODEV, "mode=755");
	sys_mkdir("/run/lock", 0);
	SYS2(chmod, "/run/lock", 01777);
	mount_modules();
	devices_make();
	net_loopback();
	SYS2(symlink, "/proc/self/fd", "/dev/fd");
	SYS2(symlink, "/proc/self/fd/0", "/dev/stdin");
	SYS2(symlink, "/proc/self/fd/1", "/dev/stdout");
	SYS2(symlink, "/proc/self/fd/2", "/dev/stderr");
	return length;
}

/* Configure a device, and wait for one that is plugged in late; for all of them together, 10 s. */
static long configure(u32 slot, u8 *message, u32 length)
{
	static int patience = 1000;
	static bool asked;
	long r = net_apply(slot, message, length);

	if (r == -ENODEV && agent.late && !asked) {
		write_host(PLUG_FILE, "");
		asked = true;
	}
	for (; r == -ENODEV && asked && patience > 0; patience--) {
		sys_poll(NULL, 0, 10);
		r = net_apply(slot, message, length);
	}
	return r;
}

/* A guest that starts without one of its NICs is useless, unlike one that lacks an address, or one that
 * lost a NIC while it rebooted: nobody has asked for that boot, who could be told. */
static void apply(u32 slot, u8 *message, u32 length)
{
	bool is_nic = net_names(message, length);
	long r = configure(slot, message, length);
	char what[24] = "NIC ";

	if (r >= 0)
		return;
	if (is_nic && !agent.again) {
		str_decimal(what + 4, what + sizeof what, slot);
		give_up(what, r);
	} else {
		complain("interface", r);
	}
}

static void need_disk(u32 number)
{
	char path[] = "/dev/ubdb", what[] = "disk ubdb";
	long r;

	path[sizeof path - 2] += (char)number;
	what[sizeof what - 2] += (char)number;
	if ((r = SYS3(faccessat, AT_FDCWD, path, 0)) < 0)
		give_up(what, r);
}

const char *boot_configure(char *buf, size_t length)
{
	u8 *next = (u8 *)buf, *end = next + length;
	const char *init = NULL;
	struct instruction i;
	long r;

	if (!clock_moves()) { /* and nothing can be waited for */
		give_up("its clock stands still", 0);
		return NULL;
	}
	while (take(&next, end, &i)) {
		switch (i.type) {
		case BOOT_HOSTNAME:
			SYS2(sethostname, i.payload, str_len((char *)i.payload));
			break;
		case BOOT_INIT:
			init = (char *)i.payload;
			break;
		case BOOT_OWN:
			machine_own((char *)i.payload, i.length);
			break;
		case BOOT_KEYS:
			machine_keys((char *)i.payload, i.length);
			break;
		case BOOT_MODULE:
			/* A missing module may be built in; otherwise, its user will fail. */
			if ((r = module_load((char *)i.payload)) < 0 && r != -ENOENT)
				complain((char *)i.payload, r);
			break;
		case BOOT_NETLINK:
			apply(i.slot, i.payload, i.length);
			break;
		case BOOT_DISK:
			need_disk(i.slot);
			break;
		case BOOT_ROUTE:
			if ((r = net_route(i.slot, i.payload, i.length)) < 0 && r != -ENODEV)
				complain("route", r);
			break;
		case BOOT_STARTUP:
			startup_take(i.slot, i.payload, i.length);
			break;
		}
	}
	machine_known();
	return init;
}

void boot_ready(void)
{
	if (*agent.useless)
		return;
	long r = write_host(READY_FILE, agent.nonce);

	if (r < 0)
		complain("ready", r);
}
