#!/bin/sh
# A tour: two real kernels on a segment, rewired while they run. Each command is printed, then run.
#
# Without root, the lab has its own namespaces. As root it would be on this machine's network, with its
# taps visible to everyone; the tour therefore runs in a network namespace of its own (unshare -n), so
# that it cannot interfere with anything there.
set -eu

bold='' plain=''
if [ -t 1 ] && [ -z "${NO_COLOR:-}" ] && [ "${TERM:-dumb}" != dumb ]; then
	bold=$(printf '\033[1m') plain=$(printf '\033[0m')
fi
say() { printf '\n%s# %s%s\n' "$bold" "$*" "$plain"; }
# quoted WORD...: print words as a shell reads them.
quoted() {
	separator=''
	for word; do
		printf %s "$separator"
		case $word in
		'' | *[!A-Za-z0-9_./:,=@%+-]*) printf "'%s'" "$(printf %s "$word" | sed "s/'/'\\\\''/g")" ;;
		*) printf %s "$word" ;;
		esac
		separator=' '
	done
}
run() {
	printf '$ %s\n' "$(quoted "$@")"
	"$@"
}

if [ "${DUMM_DEMO_INSIDE:-}" != 1 ]; then
	say "Get a kernel for guests and a small root tree for them to share; both are kept for all labs"
	run dumm-fs kernel fetch --may-exist
	run dumm-fs master build busybox --may-exist
fi
if [ "$(id -u)" = 0 ] && [ "${DUMM_DEMO_INSIDE:-}" != 1 ]; then
	DUMM_DEMO_INSIDE=1 exec unshare --net --mount --propagation unchanged "$0" "$@"
fi
if [ "$(id -u)" = 0 ]; then
	# In a chroot the root directory is not a mount point; then making /sys private is enough.
	mount --make-rprivate / 2>/dev/null || mount --make-rprivate /sys
	mount -t sysfs sysfs /sys # shows the links of this namespace
	ip link set lo up
fi

lab=$(mktemp -d "${TMPDIR:-/tmp}/dumm-demo.XXXXXX")
finish() {
	status=$?
	cd /
	if [ -e "$lab/state.json" ]; then dumm-fs -C "$lab" destroy || status=1; fi
	rm -rf "$lab"
	exit "$status"
}
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
cd "$lab"

# For command lines with a pipe or a redirection.
shell() {
	printf '$ %s\n' "$1"
	sh -c "$1"
}

say "Create a working set"
printf '$ cd %s\n' "$(quoted "$lab")"
before=$(ls /sys/class/net)
run dumm-fs init

say "Two guests: each is a separate Linux kernel, an ordinary process in a jail"
run dumm-guest create alice bob --start
run dumm-guest list
run dumm-guest exec alice -- uname -nrs

say "A segment, and a NIC on it for each guest, plugged in while they run"
run dumm-bridge create lan0
run dumm-iface create alice-eth0 bob-eth0 --bridge lan0
run dumm-iface address add alice-eth0 10.0.0.1/24
run dumm-iface address add bob-eth0 10.0.0.2/24
run dumm-guest exec alice -- ping -c 2 10.0.0.2

say "A second NIC on a new segment, while a ping over the first one loses no packets"
printf '$ %s\n' 'dumm-guest exec alice -- ping -c 30 -i 0.05 -q 10.0.0.2 >ping.txt &'
dumm-guest exec alice -- ping -c 30 -i 0.05 -q 10.0.0.2 >ping.txt &
ping=$!
run dumm-bridge create lan1
run dumm-iface create alice-eth1 --bridge lan1 --address 10.0.1.1/24
run dumm-iface create bob-eth1 --bridge lan1 --address 10.0.1.2/24
run dumm-guest exec alice -- ping -c 1 10.0.1.2
wait "$ping"
run tail -n 2 ping.txt
grep -q ' 0% packet loss' ping.txt

say "When an interface moves to another segment, its traffic moves with it"
run dumm-bridge connect lan1 alice-eth0
printf '$ %s\n' 'dumm-guest exec alice -- ping -c 1 -W 1 10.0.0.2   # not on the same segment any more'
if dumm-guest exec alice -- ping -c 1 -W 1 10.0.0.2; then
	echo 'the segments are not separate' >&2
	exit 1
fi
run dumm-bridge connect lan1 bob-eth0
run dumm-guest exec alice -- ping -c 1 10.0.0.2
run dumm-iface list

say "The host sees every NIC: watch one with tcpdump"
printf '$ %s\n' 'dumm-guest exec --host -- tcpdump -Z root -n -c 2 -i alice-eth0 icmp &'
dumm-guest exec --host -- tcpdump -Z root -n -c 2 -i alice-eth0 icmp 2>tcpdump.txt &
dump=$!
until grep -q listening tcpdump.txt; do
	kill -0 "$dump" || cat tcpdump.txt >&2
	kill -0 "$dump"
	sleep 0.1
done
run dumm-guest exec alice -- ping -c 1 -q 10.0.0.2
wait "$dump"

say "A guest's files are a tree on the host, copy-on-write on top of the master"
run dumm-guest exec --host -- sh -c 'echo "edited from outside" > mount/alice/etc/motd'
run dumm-guest exec alice -- cat /etc/motd
run dumm-guest exec alice -- sh -c 'echo "written inside" > /root/note'
run cat host/alice/root/note

say "exec is binary-safe, keeps output and errors separate, and returns the exit status"
shell 'head -c 1000000 /dev/urandom > random; dumm-guest exec bob -- cat < random | cmp - random && echo same'
printf '$ %s\n' "dumm-guest exec bob -- sh -c 'exit 42'; echo \$?"
code=0
dumm-guest exec bob -- sh -c 'exit 42' || code=$?
echo "$code"
[ "$code" = 42 ]

say "Output is made for scripts"
run dumm-guest list -o name,state,ifaces
run dumm-guest list --format json

say "Everything survives a restart, and a startup script does the rest"
shell "echo 'sysctl -w net.ipv4.ip_forward=1' | dumm-guest startup bob -"
run dumm-guest restart --all --wait booted
run dumm-guest exec alice -- ping -c 1 10.0.0.2
run dumm-guest exec bob -- sysctl net.ipv4.ip_forward | tee forwarding.txt
grep -q ' = 1' forwarding.txt

say "Take it apart without leaving a trace"
run dumm-fs destroy
after=$(ls /sys/class/net)
[ "$before" = "$after" ]
# shellcheck disable=SC2016
shell 'ls /sys/class/net; grep " $PWD/" /proc/mounts || echo "no mount is left"'
