/* The system calls that the server of a guest's files may make. */
#ifndef DUMM_SERVER_H
#define DUMM_SERVER_H

/* Add its rules to the filter. */
void build_server(void);

#endif
