/* The time that fork, exec and wait take, for tests/bench.py: forkexec COUNT PROGRAM prints the median
 * in microseconds. */
#define _GNU_SOURCE
#include <err.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static int compare(const void *a, const void *b) {
	double x = *(const double *)a, y = *(const double *)b;
	return (x > y) - (x < y);
}

static double now(void) {
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1e6 + t.tv_nsec / 1e3;
}

int main(int argc, char **argv) {
	int count = argc == 3 ? atoi(argv[1]) : 0;
	if (count <= 0)
		errx(2, "usage: forkexec COUNT PROGRAM");
	double *taken = calloc(count, sizeof *taken);
	if (!taken)
		err(1, "calloc");
	for (int i = 0; i < count; i++) {
		double start = now();
		pid_t pid = fork();
		if (pid < 0)
			err(1, "fork");
		if (pid == 0) {
			execl(argv[2], argv[2], (char *)NULL);
			_exit(127);
		}
		int status;
		if (waitpid(pid, &status, 0) != pid || status)
			errx(1, "'%s' failed", argv[2]);
		taken[i] = now() - start;
	}
	qsort(taken, count, sizeof *taken, compare);
	printf("%.1f\n", taken[count / 2]);
	free(taken);
	return 0;
}
