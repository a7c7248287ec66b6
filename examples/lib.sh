# shellcheck shell=sh
# What the examples share; sourced by them, once they have defined `prepare`: it gets what has to
# come from the network, and is run first.
#
# An example has a working set in a directory of its own, and leaves nothing. Without root its lab has
# namespaces of its own. Root's would be on this machine's network: the example has a network
# namespace of its own instead (unshare -n), so that it cannot meet what is there.
set -eu

if [ "${DUMM_EXAMPLE_INSIDE:-}" != 1 ]; then
	prepare
	if [ "$(id -u)" = 0 ]; then
		DUMM_EXAMPLE_INSIDE=1 exec unshare --net --mount --propagation unchanged "$0" "$@"
	fi
fi
if [ "$(id -u)" = 0 ]; then
	# In a chroot the root directory is no mount; then /sys alone has to be ours.
	mount --make-rprivate / 2>/dev/null || mount --make-rprivate /sys
	mount -t sysfs sysfs /sys # shows the links of this namespace
	ip link set lo up
fi
PATH=$PATH:/usr/sbin:/sbin

lab=$(mktemp -d "${TMPDIR:-/tmp}/dumm-example.XXXXXX")
finish() {
	status=$?
	if [ -e state.json ]; then
		# What guests wrote would stay, and may be theirs alone: users of the lab.
		dumm-guest list -q >guests.txt
		if [ -s guests.txt ]; then
			dumm-guest stop --all || status=1
			xargs dumm-guest delete <guests.txt || status=1
		fi
		dumm-fs destroy || status=1
	fi
	cd /
	rm -rf "$lab"
	exit "$status"
}
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
unset DUMM_DIR
cd "$lab"

say() { printf '# %s\n' "$*"; }
fail() {
	printf '%s: %s\n' "${0##*/}" "$*" >&2
	exit 1
}
# until_true SECONDS COMMAND...: wait until the command succeeds.
until_true() {
	left=$(($1 * 5))
	shift
	until "$@" >/dev/null 2>&1; do
		left=$((left - 1))
		[ "$left" -gt 0 ] || fail "not so in time: $*"
		sleep 0.2
	done
}
