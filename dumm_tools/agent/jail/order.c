/* The jail's command line. */
#include "order.h"

#include <limits.h>

#define COUNT(list) (sizeof(list) / sizeof *(list))

/* A number of decimal digits only, no larger than `most`. */
static bool number(const char *text, unsigned long most, unsigned long *value)
{
	char *end;

	if (*text < '0' || *text > '9')
		return false;
	errno = 0;
	*value = strtoul(text, &end, 10);
	return !errno && !*end && *value <= most;
}

static bool numeric(const char *what, const char *a, const char *b, struct order *o, bool *known)
{
	unsigned long n, more = 0;

	*known = true;
	if (!strcmp(what, "hold")) {
		if (!number(a, INT_MAX / 2, &n) || !number(b, INT_MAX / 2, &more))
			return false;
		o->hold = (unsigned)n;
		o->holds = (unsigned)more;
		return true;
	}
	const struct {
		const char *what;
		int *fd;
	} descriptors[] = { { "errors", &o->errors },
			    { "turn", &o->turn },
			    { "log", &o->log },
			    { "peer", &o->peer },
			    { "listen", &o->listen } };
	const struct {
		const char *what;
		unsigned *id;
	} ids[] = { { "user", &o->user }, { "group", &o->group } };
	const struct {
		const char *what;
		rlim_t *limit;
	} limits[] = { { "data", &o->data },
		       { "processes", &o->processes },
		       { "files", &o->files },
		       { "signals", &o->signals } };

	for (size_t i = 0; i < COUNT(descriptors); i++)
		if (!strcmp(what, descriptors[i].what)) {
			bool good = number(a, INT_MAX, &n);

			*descriptors[i].fd = good ? (int)n : -1;
			return good;
		}
	for (size_t i = 0; i < COUNT(ids); i++)
		if (!strcmp(what, ids[i].what)) {
			bool good = number(a, UINT_MAX - 1, &n); /* -1 means none (setresuid(2)) */

			*ids[i].id = good ? (unsigned)n : 0;
			return good;
		}
	for (size_t i = 0; i < COUNT(limits); i++)
		if (!strcmp(what, limits[i].what)) {
			bool good = number(a, LONG_MAX, &n);

			*limits[i].limit = good ? n : 0;
			return good;
		}
	if (!strcmp(what, "passing")) {
		if (!number(a, 1, &n))
			return false;
		o->passing = n;
		return true;
	}
	*known = false;
	return true;
}

/* Targets are absolute paths. */
static bool is_step(const char *what, const char *a, const char *b)
{
	static const char *const pairs[] = { "bind", "ro-bind", "dev", "symlink" };
	static const char *const mounts[] = { "mount", "ro-mount" };
	static const char *const own[] = { "tmpfs", "dir", "proc" };
	unsigned long fd;

	for (size_t i = 0; i < COUNT(pairs); i++)
		if (!strcmp(what, pairs[i]))
			return *a && b[0] == '/' && b[1];
	for (size_t i = 0; i < COUNT(mounts); i++)
		if (!strcmp(what, mounts[i]))
			return number(a, INT_MAX, &fd) && b[0] == '/' && b[1];
	for (size_t i = 0; i < COUNT(own); i++)
		if (!strcmp(what, own[i]))
			return a[0] == '/' && a[1];
	return false;
}

static bool role(const char *text, enum role *role)
{
	static const char *const names[] = { "kernel", "client", "server" };

	for (size_t i = 0; i < COUNT(names); i++)
		if (!strcmp(text, names[i])) {
			*role = (enum role)i;
			return true;
		}
	return false;
}

/* Whether this is one of the keeper's descriptors, or none. */
static bool is_held(const struct order *o, int fd)
{
	return fd < 0 || ((unsigned)fd >= o->hold && (unsigned)fd - o->hold < o->holds);
}

bool parse(int argc, char **argv, struct order *o)
{
	static const char *const two[] = { "bind", "ro-bind", "mount", "ro-mount", "dev", "hold", "tmpfs",
					   "symlink" };
	int i = 1;

	*o = (struct order){ .errors = 2, .turn = -1, .log = -1, .peer = -1, .listen = -1 };
	for (; i < argc && strcmp(argv[i], "--"); i++) {
		const char *what = argv[i] + 2;
		bool pair = false, known;

		if (strncmp(argv[i], "--", 2))
			return false;
		for (size_t j = 0; j < COUNT(two); j++)
			pair = pair || !strcmp(what, two[j]);
		if (i + 1 + pair >= argc)
			return false;
		const char *a = argv[++i], *b = pair ? argv[++i] : NULL;

		if (!numeric(what, a, b, o, &known))
			return false;
		if (known)
			continue;
		if (!strcmp(what, "pid-file"))
			o->pid_file = a;
		else if (!strcmp(what, "cgroup"))
			o->cgroup = a;
		else if (!strcmp(what, "hostname"))
			o->hostname = a;
		else if (!strcmp(what, "role")) {
			if (!role(a, &o->role))
				return false;
		}
		else if (is_step(what, a, b) && o->n < (int)COUNT(o->steps))
			o->steps[o->n++] = (struct step){ .what = what, .a = a, .b = b };
		else
			return false;
	}
	if (!is_held(o, o->log) || !is_held(o, o->peer) || !is_held(o, o->listen))
		return false;
	if (!o->pid_file || i + 1 >= argc)
		return false;
	o->argv = argv + i + 1;
	return true;
}
