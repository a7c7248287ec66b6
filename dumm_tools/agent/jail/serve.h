/* serve: run the server of a guest's files, anew for each boot of its kernel. */
#ifndef DUMM_SERVE_H
#define DUMM_SERVE_H

int run_serve(char **argv) __attribute__((noreturn));

#endif
