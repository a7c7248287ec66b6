/* ending: see to it that a kernel which reboots or powers off comes to its end.
 *
 * Since Linux 6.15, a kernel that does so first breaks its virtio devices (virtio_dev_shutdown,
 * drivers/virtio/virtio.c). UML then removes them (virtio_uml_exit, arch/um/drivers/virtio_uml.c), and
 * that of virtiofs waits for the requests which were under way (virtio_fs_drain_queue,
 * fs/fuse/virtio_fs.c), whose answers nobody accepts any more. A kernel with our patch does not wait;
 * others would do so for ever if any program reads a file at that moment.
 *
 * Nothing of the guest's can be lost by killing such a kernel: all that it would still do is to end its
 * own processes.
 */
#include "ending.h"
#include "base.h"
#include "log.h"

/* Printed at any log level (kernel/reboot.c). */
#define LAST_WORDS "reboot: "
#define OF_REBOOT "Restarting system"
/* A kernel removes its umid directory right after these words (remove_umid_dir,
 * arch/um/os-Linux/umid.c), and /boot makes the next one. */
#define UMID "/run/uml/m"
#define PATIENCE 2 /* s between two looks; the rest takes milliseconds */
#define LOOKS 30 /* one after the other; a host may be very slow */

static time_t due; /* the next look; 0: none */
static int looks;  /* that are left */
static bool reboot;
static bool missing; /* the umid directory, at the last look */

void ending_look(bool restarts)
{
	char tail[257];
	char *words = NULL;

	tail[log_tail(tail, sizeof tail - 1)] = 0;
	for (char *next = tail; (next = strstr(next, LAST_WORDS));)
		words = next += strlen(LAST_WORDS);
	if (!words)
		return;
	reboot = !strncmp(words, OF_REBOOT, strlen(OF_REBOOT));
	due = reboot && !restarts ? 0 : now() + PATIENCE;
	looks = LOOKS;
	missing = false;
}

time_t ending_wait(void)
{
	if (!due)
		return -1;
	time_t left = due - now();

	return left < 0 ? 0 : left;
}

/* Twice in a row: a look that is left from one reboot may come in the middle of the next one. */
bool ending_is_stuck(void)
{
	if (!due || now() < due)
		return false;
	bool before = missing;

	missing = access(UMID, F_OK) && errno == ENOENT;
	due = --looks ? now() + PATIENCE : 0;
	return before && missing;
}

bool ending_in_reboot(void)
{
	return reboot;
}
