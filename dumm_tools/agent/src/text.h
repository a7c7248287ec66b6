/* Strings, memory and whole files, without a C library. */
#ifndef DUMM_TEXT_H
#define DUMM_TEXT_H

#include "sys.h"

/* Memory that is used up piece by piece. */
struct room {
	char *at, *end;
};

size_t str_len(const char *s);
int str_cmp(const char *a, const char *b);
bool str_starts(const char *s, const char *prefix);
char *str_copy(char *dst, const char *end, const char *src);
char *str_decimal(char *dst, const char *end, u32 n);
u32 str_number(const char **s);
const char *env_get(char *const *env, const char *name);
void *mem_map(size_t n);
void mem_unmap(void *p, size_t n);
long read_whole(int fd, char *buf, size_t size);
void *memcpy(void *dst, const void *src, size_t n);
void *memmove(void *dst, const void *src, size_t n);
void *memset(void *dst, int c, size_t n);
int memcmp(const void *a, const void *b, size_t n);

#endif
