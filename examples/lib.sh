# shellcheck shell=sh
# Code shared by the examples. They source it after defining `prepare`, which fetches whatever comes
# from the network and is run first.
#
# An example creates a working set in a directory of its own and cleans up after itself. Without root,
# its lab has its own namespaces. As root it would be on this machine's network; the example therefore
# runs in a network namespace of its own (unshare -n), so that it cannot interfere with anything there.
set -eu

if [ "${DUMM_EXAMPLE_INSIDE:-}" != 1 ]; then
	prepare
	if [ "$(id -u)" = 0 ]; then
		DUMM_EXAMPLE_INSIDE=1 exec unshare --net --mount --propagation unchanged "$0" "$@"
	fi
fi
if [ "$(id -u)" = 0 ]; then
	# In a chroot the root directory is not a mount point; then making /sys private is enough.
	mount --make-rprivate / 2>/dev/null || mount --make-rprivate /sys
	mount -t sysfs sysfs /sys # shows the links of this namespace
	ip link set lo up
fi
PATH=$PATH:/usr/sbin:/sbin

lab=$(mktemp -d "${TMPDIR:-/tmp}/dumm-example.XXXXXX")
finish() {
	status=$?
	if [ -e state.json ]; then
		# destroy keeps what guests wrote, and files of the guests' users may belong to subordinate
		# ids: delete the guests first.
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
# until_true SECONDS COMMAND...: wait for the command to succeed.
until_true() {
	left=$(($1 * 5))
	shift
	until "$@" >/dev/null 2>&1; do
		left=$((left - 1))
		[ "$left" -gt 0 ] || fail "timed out: $*"
		sleep 0.2
	done
}
