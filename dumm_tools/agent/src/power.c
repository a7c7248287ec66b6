/* The end of a guest: programs may terminate, then their data is synced. */
#include "power.h"

#include <linux/reboot.h>

/* ---- by the guest's init ---- */

static bool is_in(const char *word, const char *const *words)
{
	while (*words && str_cmp(word, *words))
		words++;
	return *words;
}

/* An init that obeys such a command cannot be seen doing so from outside until it is nearly done. */
bool power_is_asked_for(char **argv)
{
	static const char *const ends[] = { "halt", "poweroff", "reboot", NULL };
	static const char *const options[] = { "-f", "-ff", "-n", "-p", "--force", "--no-wall", "--poweroff",
					       NULL };
	static const char *const levels[] = { "0", "6", NULL };
	static const char *const at_once[] = { "-h", "-H", "-P", "-r", "now", NULL };
	const char *name = argv[0];
	bool shuts_down, changes_level, is_end;
	int operands = 0;

	for (const char *s = name; *s; s++)
		if (*s == '/')
			name = s + 1;
	shuts_down = !str_cmp(name, "shutdown") || !str_cmp(name, "openrc-shutdown");
	changes_level = !str_cmp(name, "init") || !str_cmp(name, "telinit");
	is_end = is_in(name, ends);
	if (!is_end && !shuts_down && !changes_level && str_cmp(name, "systemctl"))
		return false;
	for (int i = 1; argv[i]; i++) {
		const char *const *known = shuts_down ? at_once : changes_level ? levels : ends;

		if (!is_end && is_in(argv[i], known))
			operands += argv[i][0] != '-';
		else if (!is_in(argv[i], options))
			return false;
	}
	return operands == !is_end;
}

void power_announce(void)
{
	write_host(ENDING_FILE, "");
	agent.ending = true;
}

void power_withdraw(void)
{
	if (agent.ending)
		SYS3(unlinkat, agent.host, ENDING_FILE, 0);
	agent.ending = false;
}

/* ---- by ourselves ---- */

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
	power_announce();
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
