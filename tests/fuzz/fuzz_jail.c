/* libFuzzer's cases for the jail's command line: words that end with a zero byte. */
#include "../../dumm_tools/agent/jail/order.c"

#include <stdint.h>

#define WORDS 4096

static void check(int argc, char **argv, const struct order *o)
{
	bool ours = false;

	for (int i = 2; i < argc; i++)
		ours = ours || o->argv == argv + i;
	if (!ours || !o->argv[0] || !o->pid_file || o->n < 0 || o->n > 1024)
		abort();
	if (o->log >= 0 &&
	    ((unsigned)o->log < o->hold || (unsigned)o->log >= o->hold + o->holds))
		abort();
	if (o->user == (uid_t)-1 || o->group == (gid_t)-1 || o->errors < 0)
		abort();
	for (int i = 0; i < o->n; i++) {
		const char *place = o->steps[i].b ? o->steps[i].b : o->steps[i].a;

		/* A file system's options are not a path. */
		if (!strcmp(o->steps[i].what, "tmpfs"))
			place = o->steps[i].a;
		if (place[0] != '/' || !place[1])
			abort();
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static struct order o;
	char *copy = malloc(size + 1), *argv[WORDS + 1];
	int argc = 0;

	memcpy(copy, data, size);
	copy[size] = 0;
	argv[argc++] = "jail";
	for (char *word = copy; word <= copy + size && argc < WORDS; word += strlen(word) + 1)
		argv[argc++] = word;
	argv[argc] = NULL;
	if (parse(argc, argv, &o))
		check(argc, argv, &o);
	free(copy);
	return 0;
}
