/* NICs that do not fit on the kernel's command line. */
#ifndef DUMM_LATE_H
#define DUMM_LATE_H

/* Start a process that plugs these devices into the kernel when its agent asks for them. */
void plug_later(char **nics);

#endif
