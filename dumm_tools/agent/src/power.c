/* The end of a guest: programs may terminate, then their data is synced. */
#include "power.h"

#include <linux/reboot.h>

/* Wait until no child is left, for at most `tenths` tenths of a second. */
static bool all_gone(int tenths)
{
	for (; tenths > 0; tenths--) {
		long r;

		while ((r = SYS4(wait4, -1, NULL, WNOHANG, NULL)) > 0)
			;
		if (r == -ECHILD)
			return true;
		sys_poll(NULL, 0, 100);
	}
	return false;
}

void power(char how)
{
	write_host(ENDING_FILE, "");
	if (agent.is_init) {
		sys_kill(-1, SIGTERM);
		sys_kill(-1, SIGHUP); /* interactive shells ignore the other */
		sys_kill(-1, SIGCONT);
		if (SYS4(wait4, -1, NULL, WNOHANG, NULL) != -ECHILD && !all_gone(20)) {
			sys_kill(-1, SIGKILL);
			all_gone(5);
		}
	}
	SYS0(sync);
	SYS4(reboot, LINUX_REBOOT_MAGIC1, LINUX_REBOOT_MAGIC2,
	     how == POWER_REBOOT ? LINUX_REBOOT_CMD_RESTART : LINUX_REBOOT_CMD_POWER_OFF, NULL);
	sys_exit(1);
}
