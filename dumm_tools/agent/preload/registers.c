/* registers: let kernels set the registers of their processes on hosts that have more of them.
 *
 * Kernels before Linux 6.13 keep the x87, SSE, AVX and AVX-512 registers of a process in a buffer of a fixed
 * size (FP_SIZE, arch/x86/um/asm/ptrace.h), and set them by ptrace(2), which takes only all registers that
 * the host's processor has (xstateregs_set, arch/x86/kernel/fpu/regset.c). On one with AMX they fail with
 * EFAULT, and the guest's first process ends at once. The registers that the kernel does not know are set
 * to their initial values here, which they have anyway: a process may use AMX only after it has asked the
 * host's kernel for it (arch_prctl(2), ARCH_REQ_XCOMP_PERM), and a guest's processes cannot.
 *
 * This stands in for ptrace(3). As in listing.c, nothing here depends on the C library.
 */
#include "../src/sys.h"

#include <linux/elf.h>
#include <linux/ptrace.h>
#include <linux/uio.h>

#define EXPORT __attribute__((visibility("default")))

int *__errno_location(void); /* the C library's */
/* Its last three arguments are those of a variable list, which are passed alike. */
EXPORT long ptrace(int request, int pid, void *address, void *data);

static u8 registers[1 << 16]; /* of a process, in the order in which XSAVE saves them */
static size_t size;	      /* of all that this host has; 0: it is not known to have too many */

/* Set registers of which the first are given: always as many, if the kernel does not know all. */
static long set(int pid, const struct iovec *given)
{
	struct iovec all = { registers, size };
	const void *from = given->iov_base;
	void *to = registers;
	size_t n = given->iov_len;
	long r;

	if (given->iov_len >= size) {
		r = SYS4(ptrace, PTRACE_SETREGSET, pid, NT_X86_XSTATE, given);
		if (r != -EFAULT || size)
			return r;
		all.iov_len = sizeof registers;
		r = SYS4(ptrace, PTRACE_GETREGSET, pid, NT_X86_XSTATE, &all);
		if (r < 0)
			return r;
		if (given->iov_len >= all.iov_len)
			return -EFAULT;
		size = all.iov_len;
		for (size_t i = n; i < size; i++)
			registers[i] = 0;
	}
	__asm__ volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(n) : : "memory");
	return SYS4(ptrace, PTRACE_SETREGSET, pid, NT_X86_XSTATE, &all);
}

EXPORT long ptrace(int request, int pid, void *address, void *data)
{
	bool peeks = request >= PTRACE_PEEKTEXT && request <= PTRACE_PEEKUSR;
	bool sets = request == PTRACE_SETREGSET && (long)address == NT_X86_XSTATE;
	long word = 0;
	long r = sets ? set(pid, data) : SYS4(ptrace, request, pid, address, peeks ? &word : data);

	if (r < 0) {
		*__errno_location() = (int)-r;
		return -1;
	}
	if (!peeks)
		return r;
	*__errno_location() = 0;
	return word;
}
