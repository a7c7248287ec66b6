/* Programs for seccomp(2), assembled instruction by instruction. */
#ifndef DUMM_FILTER_H
#define DUMM_FILTER_H

#include "base.h"
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>

/* Load the next value to compare: a field of struct seccomp_data, or an argument. */
void load(size_t offset);
void load_argument(int n);

/* The end: the verdict on the call. */
void answer(unsigned action);
void deny(int error);

/* Skip the next instruction if the loaded value is (not) `k`, or has none of the bits. */
void skip_unless(unsigned k);
void skip_if(unsigned k);
void skip_unless_any(unsigned bits);
void skip_unless_above(unsigned k);

/* Keep only these bits of the loaded value. */
void mask(unsigned bits);

/* The rules of a call, between begin_call and end_call, must end with a verdict. */
unsigned short begin_call(int number);
void end_call(unsigned short began);

/* Continue only if the loaded value has no other bits than these. */
void need_bits(unsigned bits, int error);

/* Continue only if argument `n`, without the bits in `ignored`, is `k`. */
void need_argument(int n, unsigned ignored, unsigned k, int error);

/* The complete rule of a call: argument `n` is one of these. */
void allow_values(int number, int n, const unsigned *values, size_t count, int error);

#define ALLOW_VALUES(number, n, values, error)                                                \
	allow_values(number, n, values, sizeof(values) / sizeof *(values), error)

/* Allow these calls with any arguments. */
void allow(const unsigned short *calls, size_t count);

/* Install the finished filter. */
void install(void);

#endif
