/* Strings, memory and whole files, without a C library. */
#include "text.h"

size_t str_len(const char *s)
{
	size_t n = 0;

	while (s[n])
		n++;
	return n;
}

int str_cmp(const char *a, const char *b)
{
	while (*a && *a == *b)
		a++, b++;
	return (u8)*a - (u8)*b;
}

bool str_starts(const char *s, const char *prefix)
{
	while (*prefix)
		if (*s++ != *prefix++)
			return false;
	return true;
}

/* Append src at dst, stopping before `end`, and terminate; return the position of the NUL. */
char *str_copy(char *dst, const char *end, const char *src)
{
	while (*src && dst + 1 < end)
		*dst++ = *src++;
	*dst = 0;
	return dst;
}

/* Append a number, like str_copy. */
char *str_decimal(char *dst, const char *end, u32 n)
{
	char digits[11], *d = digits + sizeof digits - 1;

	*d = 0;
	do
		*--d = (char)('0' + n % 10);
	while (n /= 10);
	return str_copy(dst, end, d);
}

u32 str_number(const char **s)
{
	u32 n = 0;

	while (**s >= '0' && **s <= '9')
		n = n * 10 + (u32)(*(*s)++ - '0');
	return n;
}

const char *env_get(char *const *env, const char *name)
{
	size_t n = str_len(name);

	for (; *env; env++)
		if (str_starts(*env, name) && (*env)[n] == '=')
			return *env + n + 1;
	return NULL;
}

void *mem_map(size_t n)
{
	long p = SYS6(mmap, 0, n, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	return p < 0 && p > -4096 ? NULL : (void *)p;
}

void mem_unmap(void *p, size_t n)
{
	if (p)
		SYS2(munmap, p, n);
}

/* Read to the end of the file or of the buffer, and NUL-terminate; return the length, or a negative
 * errno. */
long read_whole(int fd, char *buf, size_t size)
{
	size_t got = 0;

	while (got + 1 < size) {
		long n = sys_read(fd, buf + got, size - 1 - got);

		if (n < 0)
			return n;
		if (n == 0)
			break;
		got += (size_t)n;
	}
	buf[got] = 0;
	return (long)got;
}

void *memcpy(void *dst, const void *src, size_t n)
{
	void *d = dst;

	__asm__ volatile("rep movsb" : "+D"(d), "+S"(src), "+c"(n) : : "memory");
	return dst;
}

void *memmove(void *dst, const void *src, size_t n)
{
	u8 *d = dst;
	const u8 *s = src;

	if (d <= s || d >= s + n)
		return memcpy(dst, src, n);
	while (n--)
		d[n] = s[n];
	return dst;
}

void *memset(void *dst, int c, size_t n)
{
	void *d = dst;

	__asm__ volatile("rep stosb" : "+D"(d), "+c"(n) : "a"(c) : "memory");
	return dst;
}

int memcmp(const void *a, const void *b, size_t n)
{
	const u8 *x = a, *y = b;

	for (size_t i = 0; i < n; i++)
		if (x[i] != y[i])
			return x[i] - y[i];
	return 0;
}
