/* Device nodes that load their driver when they are opened: /dev/ppp, /dev/net/tun, /dev/fuse and others.
 * On other machines, udev makes them from the same list (kmod-static-nodes.service). */
#include "devices.h"
#include "module.h"

#define LIST_MAX 16384

/* The next word of a line, terminated; NULL at its end. */
static char *next_word(char **at)
{
	char *s = *at, *word;

	while (*s == ' ')
		s++;
	word = s;
	while (*s && *s != ' ' && *s != '\n')
		s++;
	*at = s;
	if (s == word)
		return NULL;
	if (*s == ' ') {
		*s = 0;
		*at = s + 1;
	}
	return word;
}

/* Everybody may use these, as udev's rules say (50-udev-default.rules). */
static bool is_for_all(const char *name)
{
	return !str_cmp(name, "fuse") || !str_cmp(name, "net/tun");
}

/* NODE and TYPE MAJOR:MINOR, below /dev, which is the working directory. */
static void make(char *name, const char *device)
{
	int type = *device == 'b' ? S_IFBLK : S_IFCHR;
	u32 major, minor = 0;

	device++;
	major = str_number(&device);
	if (*device++ == ':')
		minor = str_number(&device);
	for (char *s = name; *s; s++)
		if (*s == '/') {
			*s = 0;
			sys_mkdir(name, 0755);
			*s = '/';
		}
	SYS3(mknod, name, type | (is_for_all(name) ? 0666 : 0600), major << 8 | minor);
}

void devices_make(void)
{
	static char text[LIST_MAX];
	char *at = text;

	if (!module_index("modules.devname", text, sizeof text))
		return;
	long mask = SYS1(umask, 0);

	SYS1(chdir, "/dev");
	/* MODULE NODE TYPE MAJOR:MINOR, or a comment */
	while (*at) {
		char *start = at;

		while (*at && *at != '\n')
			at++;
		if (*at)
			*at++ = 0;
		char *module = next_word(&start), *name = next_word(&start), *device = start;

		if (module && *module != '#' && name && *device)
			make(name, device);
	}
	SYS1(chdir, "/");
	SYS1(umask, mask);
}
