/* Users and groups, read from passwd(5) and group(5) without a C library. */
#include "account.h"

#define FILE_MAX (1 << 20)

static char *read_file(const char *path, struct room *room)
{
	int fd = (int)sys_open(path, O_RDONLY);
	char *buf = room->at;
	size_t size = (size_t)(room->end - buf);
	long n = -ENOMEM;

	if (size)
		n = fd < 0 ? fd : read_whole(fd, buf, size < FILE_MAX ? size : FILE_MAX);
	sys_close(&fd);
	if (n < 0)
		return NULL;
	room->at += n + 1;
	return buf;
}

/* Cut the next line off *text and split it at colons; return the number of fields, 0 at the end. Those that
 * it lacks are empty. */
static int next_fields(char **text, char **fields, int max)
{
	char *s = *text;
	int n = 0;

	if (!s || !*s)
		return 0;
	fields[n++] = s;
	for (; *s && *s != '\n'; s++)
		if (*s == ':' && n < max) {
			*s = 0;
			fields[n++] = s + 1;
		}
	*text = *s ? s + 1 : s;
	*s = 0;
	for (int i = n; i < max; i++)
		fields[i] = s;
	return n;
}

/* Whether it is the number of a user or a group; (uid_t)-1 means none (setuid(2)). */
static bool is_id(const char *s)
{
	uint64_t n = 0;

	if (!*s)
		return false;
	for (; *s >= '0' && *s <= '9' && n < UINT32_MAX; s++)
		n = n * 10 + (uint64_t)(*s - '0');
	return !*s && n < UINT32_MAX;
}

static u32 number_of(const char *s)
{
	return str_number(&s);
}

bool account_find(const char *user, struct account *a, struct room *room)
{
	char *f[7], *text = read_file("/etc/passwd", room);
	bool numeric = is_id(user);
	int n;

	while ((n = next_fields(&text, f, 7)))
		if (n >= 4 && f[0][0] && (numeric ? number_of(f[2]) == number_of(user)
						  : !str_cmp(f[0], user))) {
			*a = (struct account){ number_of(f[2]), number_of(f[3]), f[0], f[5], f[6] };
			return true;
		}
	if (!numeric && str_cmp(user, "root"))
		return false;
	*a = (struct account){ numeric ? number_of(user) : 0, 0, (char *)user,
			       str_cmp(user, "root") && str_cmp(user, "0") ? "/" : "/root", "/bin/sh" };
	return true;
}

bool account_group(const char *group, u32 *gid, struct room *room)
{
	char *f[4], *text;

	if (is_id(group)) {
		*gid = number_of(group);
		return true;
	}
	text = read_file("/etc/group", room);
	while (next_fields(&text, f, 4) >= 3)
		if (!str_cmp(f[0], group)) {
			*gid = number_of(f[2]);
			return true;
		}
	return false;
}

static bool in_list(const char *name, const char *list)
{
	size_t n = str_len(name);

	while (*list) {
		if (str_starts(list, name) && (list[n] == ',' || !list[n]))
			return true;
		while (*list && *list++ != ',')
			;
	}
	return false;
}

int account_groups(const struct account *a, u32 *groups, int max, struct room *room)
{
	char *f[4], *text = read_file("/etc/group", room);
	int count = 0;

	while (next_fields(&text, f, 4) == 4)
		if (count < max && number_of(f[2]) != a->gid && in_list(a->name, f[3]))
			groups[count++] = number_of(f[2]);
	return count;
}
