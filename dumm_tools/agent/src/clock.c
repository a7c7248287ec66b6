/* The guest's clock: without a timer a kernel's stands still, and whatever waits in it waits forever. */
#include "clock.h"

/* How long to look for a change, without a clock: both so many readings and so many cycles of the
 * processor, of which a tick takes 10 ms. */
#define READINGS 20000
#define CYCLES 1000000000ULL

static u64 now(void)
{
	struct {
		long seconds, nanoseconds;
	} t = { 0, 0 };

	SYS2(clock_gettime, 1 /* CLOCK_MONOTONIC */, &t);
	return (u64)t.seconds * 1000000000 + (u64)t.nanoseconds;
}

bool clock_moves(void)
{
	u64 first = now(), began = __builtin_ia32_rdtsc();

	/* As a rule the second reading differs. */
	for (u32 i = 0; now() == first; i++)
		if (i >= READINGS && __builtin_ia32_rdtsc() - began > CYCLES)
			return false;
	return true;
}
