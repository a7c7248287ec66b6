/* A root file system that the host serves by virtiofs. */
#include "served.h"
#include "module.h"

/* From the kernel pack: the guest's own modules are below its root. */
static void load_modules(void)
{
	static const char *const names[] = { "fuse", "virtiofs" };
	char place[160], *end = place + sizeof place;

	str_copy(str_copy(place, end, "/host/usr/lib/uml/modules/"), end, agent.release);
	module_place(place);
	for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
		long r = module_load(names[i]);

		if (r < 0 && r != -ENOENT) /* it may be built in; otherwise, the mount will fail */
			complain(names[i], r);
	}
	module_place(NULL);
}

long mount_served(const char *tag, const char *directory, const char *target)
{
	char path[64], *end = path + sizeof path;
	long r = sys_mkdir("/served", 0700);

	if (r == 0 && (r = sys_mount(tag, "/served", "virtiofs", 0, NULL)) == -ENODEV) {
		load_modules();
		r = sys_mount(tag, "/served", "virtiofs", 0, NULL);
	}
	if (r < 0)
		return r;
	str_copy(str_copy(path, end, "/served/"), end, directory);
	r = sys_mount(path, target, NULL, MS_BIND, NULL);
	SYS2(umount2, "/served", MNT_DETACH);
	return r;
}
