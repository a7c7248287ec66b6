/* The C code on the host's side: `jail` starts a program in a jail, `hold` keeps a lab's
 * namespaces. */
#include "hold.h"
#include "jail.h"

#include <stdio.h>
#include <string.h>

int main(int argc, char **argv)
{
	if (argc > 1 && !strcmp(argv[1], "jail"))
		return run_jail(argc - 1, argv + 1);
	if (argc > 1 && !strcmp(argv[1], "hold"))
		return run_hold(argc - 1, argv + 1);
	fprintf(stderr, "usage: %s jail|hold ...\n", argv[0]);
	return 2;
}
