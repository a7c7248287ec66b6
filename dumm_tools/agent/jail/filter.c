#include "filter.h"

static struct sock_filter program[1024];
static unsigned short length;

static void emit(unsigned short code, unsigned k, unsigned char yes, unsigned char no)
{
	program[length++] = (struct sock_filter){ code, yes, no, k };
}

void load(size_t offset)
{
	emit(BPF_LD | BPF_W | BPF_ABS, (unsigned)offset, 0, 0);
}

/* The half of an argument that the kernel uses for an int (x86-64 is little-endian). None of the calls
 * below has flags in the upper half. */
void load_argument(int n)
{
	load(offsetof(struct seccomp_data, args) + 8 * (size_t)n);
}

void answer(unsigned action)
{
	emit(BPF_RET | BPF_K, action, 0, 0);
}

void deny(int error)
{
	answer(SECCOMP_RET_ERRNO | (unsigned)error);
}

void skip_unless(unsigned k)
{
	emit(BPF_JMP | BPF_JEQ | BPF_K, k, 0, 1);
}

void skip_if(unsigned k)
{
	emit(BPF_JMP | BPF_JEQ | BPF_K, k, 1, 0);
}

void skip_unless_above(unsigned k)
{
	emit(BPF_JMP | BPF_JGT | BPF_K, k, 0, 1);
}

void mask(unsigned bits)
{
	emit(BPF_ALU | BPF_AND | BPF_K, bits, 0, 0);
}

void skip_unless_any(unsigned bits)
{
	emit(BPF_JMP | BPF_JSET | BPF_K, bits, 0, 1);
}

unsigned short begin_call(int number)
{
	emit(BPF_JMP | BPF_JEQ | BPF_K, (unsigned)number, 1, 0);
	emit(BPF_JMP | BPF_JA, 0, 0, 0);
	return length;
}

void end_call(unsigned short began)
{
	program[began - 1].k = (unsigned)(length - began);
}

void need_bits(unsigned bits, int error)
{
	skip_unless_any(~bits);
	deny(error);
}

void need_argument(int n, unsigned ignored, unsigned k, int error)
{
	load_argument(n);
	if (ignored)
		mask(~ignored);
	skip_if(k);
	deny(error);
}

void allow_values(int number, int n, const unsigned *values, size_t count, int error)
{
	unsigned short call = begin_call(number);

	load_argument(n);
	for (size_t i = 0; i < count; i++) {
		skip_unless(values[i]);
		answer(SECCOMP_RET_ALLOW);
	}
	deny(error);
	end_call(call);
}

void allow(const unsigned short *calls, size_t count)
{
	for (size_t i = 0; i < count; i++) {
		skip_unless(calls[i]);
		answer(SECCOMP_RET_ALLOW);
	}
}

void install(void)
{
	struct sock_fprog all = { length, program };

	if (syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &all))
		die("cannot filter system calls");
}
