/* The C code on the host's side: `jail` starts a program in a jail, where `boot` becomes a guest's
 * kernel, or `serve` starts the server of its files; `hold` keeps a lab's namespaces. */
#include "boot.h"
#include "hold.h"
#include "jail.h"
#include "serve.h"

#include <stdio.h>
#include <string.h>

int main(int argc, char **argv)
{
	/* The name is all that UML leaves to us. */
	if (argc > 0 && !strcmp(argv[0], "/boot"))
		run_boot(argv);
	if (argc > 1 && !strcmp(argv[0], "/serve"))
		run_serve(argv + 1);
	if (argc > 1 && !strcmp(argv[1], "jail"))
		return run_jail(argc - 1, argv + 1);
	if (argc > 1 && !strcmp(argv[1], "hold"))
		return run_hold(argc - 1, argv + 1);
	fprintf(stderr, "usage: %s jail|hold ...\n", argv[0]);
	return 2;
}
