/* Programs for seccomp(2), put together instruction by instruction. */
#ifndef DUMM_FILTER_H
#define DUMM_FILTER_H

#include "base.h"
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>

/* What is compared next: the system call's number and machine (struct seccomp_data), an argument. */
void load(size_t offset);
void load_argument(int n);

/* The end: what is done with the call. */
void answer(unsigned action);
void deny(int error);

/* When the value loaded is (not) `k`, or has none of the bits, the next instruction is left out. */
void skip_unless(unsigned k);
void skip_if(unsigned k);
void skip_unless_any(unsigned bits);
void skip_unless_above(unsigned k);

/* Leave only these bits of the value loaded. */
void mask(unsigned bits);

/* The rules of one call, between begin_call and end_call, must end in an answer. */
unsigned short begin_call(int number);
void end_call(unsigned short began);

/* Go on only if the value loaded has no bits but these. */
void need_bits(unsigned bits, int error);

/* Go on only if argument `n`, without the bits of `ignored`, is `k`. */
void need_argument(int n, unsigned ignored, unsigned k, int error);

/* The whole rule of a call: argument `n` is one of these. */
void allow_values(int number, int n, const unsigned *values, size_t count, int error);

#define ALLOW_VALUES(number, n, values, error)                                                \
	allow_values(number, n, values, sizeof(values) / sizeof *(values), error)

/* Allow these calls, whatever their arguments. */
void allow(const unsigned short *calls, size_t count);

/* Put the filter that was made in place. */
void install(void);

#endif
