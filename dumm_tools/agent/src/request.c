/* Requests to run a program, each in memory of its own: the program's process uses it until exec. */
#include "request.h"
#include "protocol.h"

/* Room for strings and pointers, unless there are many, and for what the process needs: two account
 * files. Only what is used of it takes memory. */
#define STRINGS_SIZE (64 << 10)
#define ROOM_SIZE ((2 << 20) + (64 << 10))
#define USUAL_SIZE (sizeof(struct request) + STRINGS_SIZE + ROOM_SIZE)
/* Memory of which more was touched is not kept. */
#define KEPT_MAX (128 << 10)

static struct request *used, *spare;

/* The number of NUL-terminated strings. */
static u32 count_of(const u8 *p, u32 n)
{
	u32 count = 0;

	while (n--)
		count += !*p++;
	return count;
}

static struct request *memory(size_t size)
{
	struct request *r = spare;

	if (size > USUAL_SIZE) {
		r = mem_map(size);
	} else {
		size = USUAL_SIZE;
		if (!r)
			r = mem_map(size);
		spare = NULL;
	}
	if (r)
		r->size = size;
	return r;
}

long request_take(const u8 *payload, u32 n, struct request **taken)
{
	if (n < 8 || payload[n - 1])
		return -EINVAL;
	u32 argc = payload[5] | (u32)payload[6] << 8, count = count_of(payload + 7, n - 7);

	if (count >= IN_MAX / 2)
		return -E2BIG;
	if (argc < 1 || count < 2 + argc)
		return -EINVAL;
	size_t pointers = (count + 1) * sizeof(char *);
	struct request *r = memory(sizeof *r + pointers + n + ROOM_SIZE);

	if (!r)
		return -ENOMEM;
	char **strings = (char **)(r + 1), *p = (char *)(strings + count + 1);

	r->room = (struct room){ p + n, (char *)r + r->size };
	memcpy(p, payload + 7, n - 7);
	for (u32 i = 0; i < count; i++) {
		strings[i] = p;
		p += str_len(p) + 1;
	}
	strings[count] = NULL;
	r->pid = 0;
	r->flags = payload[0];
	r->rows = (u16)(payload[1] | payload[2] << 8);
	r->cols = (u16)(payload[3] | payload[4] << 8);
	r->user = strings[0];
	r->cwd = strings[1];
	/* The environment follows the arguments: shift the arguments down over cwd, which leaves one
	 * place before them for a shell. */
	r->env = strings + 2 + argc;
	r->argv = strings + 1;
	for (u32 i = 0; i < argc; i++)
		r->argv[i] = strings[i + 2];
	r->argv[argc] = NULL;
	*taken = r;
	return 0;
}

void request_use(struct request *r, int pid)
{
	r->pid = pid;
	r->next = used;
	used = r;
}

void request_drop(struct request *r)
{
	size_t touched = (size_t)(r->room.at - (char *)(r + 1));

	/* The next one takes no page faults, which are dear in a UML guest. */
	if (!spare && r->size == USUAL_SIZE && touched <= KEPT_MAX)
		spare = r;
	else
		mem_unmap(r, r->size);
}

void request_left(int pid)
{
	for (struct request **p = &used; *p; p = &(*p)->next)
		if ((*p)->pid == pid) {
			struct request *r = *p;

			*p = r->next;
			request_drop(r);
			return;
		}
}
