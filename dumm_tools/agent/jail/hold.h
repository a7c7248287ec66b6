/* hold: keep a lab's namespaces. */
#ifndef DUMM_HOLD_H
#define DUMM_HOLD_H

int run_hold(int argc, char **argv);

#endif
