# shellcheck shell=sh
# Code shared by the examples. They source it after defining `prepare`, which fetches whatever comes
# from the network and is run first. Some of them need a kernel that Debian does not have; `prepare`
# then begins with `need`, and the exit status is 77 if there is no such kernel.
#
# An example creates a working set in a directory of its own and cleans up after itself. Without root,
# its lab has its own namespaces. As root it would be on this machine's network; the example therefore
# runs in a network namespace of its own (unshare -n), so that it cannot interfere with anything there.
set -eu

# need FEATURE...: set KERNEL to the newest kernel pack that has these features (`dumm-fs kernel show
# NAME -o features`), or end with status 77. If KERNEL is set already, no other pack will do.
need() {
	lacking=
	for pack in ${KERNEL:-$(dumm-fs kernel list -o release,name | sort -rV | cut -f 2)}; do
		has=$(dumm-fs kernel show "$pack" -o features)
		missing=
		for feature in "$@"; do
			case ",$has," in *",$feature,"*) ;; *) missing="$missing $feature" ;; esac
		done
		if [ -z "$missing" ]; then
			export KERNEL="$pack"
			return
		fi
		lacking="$lacking, kernel '$pack' lacks$missing"
	done
	lacking=${lacking:-, no kernel pack}
	printf '%s: %s: dumm-fs kernel build\n' "${0##*/}" "${lacking#, }" >&2
	exit 77
}
# network_master: build the master of the examples that need more network tools than busybox has.
network_master() {
	dumm-fs master build debian --name network --may-exist --include \
		strongswan-swanctl,strongswan-charon,nftables,wireguard-tools,mptcpize
}

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
# reaches GUEST ADDRESS: a ping must be answered.
reaches() {
	dumm-guest exec "$1" -- ping -c 1 -W 30 "$2" >ping.txt || fail "$1 does not reach $2: $(cat ping.txt)"
	say "$1 reaches $2"
}
# misses GUEST ADDRESS: no ping must be answered.
misses() {
	code=0
	dumm-guest exec "$1" -- ping -c 2 -i 0.2 -W 1 "$2" >ping.txt 2>&1 || code=$?
	case $code in
	0) fail "$1 reaches $2" ;;
	1 | 2) say "$1 does not reach $2" ;; # 2: there is no route
	*) fail "$(cat ping.txt)" ;;
	esac
}
# watch BRIDGE: capture what passes there, in the background, until `watched`.
watch() {
	rm -f wire.pcap tcpdump.txt # of an earlier one
	dumm-bridge capture "$1" -w wire.pcap 2>tcpdump.txt &
	capture=$!
	until_true 60 grep -q listening tcpdump.txt
}
# watched FILTER NUMBER: wait until so many packets that match the tcpdump filter have been captured.
watched() {
	until_true 60 sh -c "tcpdump -n -r wire.pcap '$1' >seen.txt && [ \$(wc -l <seen.txt) -ge $2 ]"
	kill -INT "$capture"
	wait "$capture" || [ $? = 130 ]
	cat seen.txt
}
# unseen FILTER: no captured packet may match it.
unseen() {
	tcpdump -n -r wire.pcap "$1" >seen.txt 2>tcpdump.txt
	[ ! -s seen.txt ] || fail "on the wire: $(cat seen.txt)"
	say "nothing on the wire matches '$1'"
}
