#!/bin/sh
# selftests.sh DIR [TEST...]: run the kernel's own tests of bridges, routers and tunnels in a guest,
# and compare two kinds of cables: pairs of veth devices, for which the tests are written, and
# interfaces of the guest on segments with two ends.
#
# DIR is a tree of the kernel's source; only tools/testing/selftests/net is used. Debian has it in
# linux-source-VERSION; take the version of the kernel pack, or a newer one. A TEST is the name of a
# script in net/forwarding, such as bridge_igmp. By default, tests are run that need only cables.
#
# SUITE is the Debian release of the kernel and of the programs (default: sid). LOGS is a directory
# to keep the output of the tests in. The exit status is 1 if a test has fewer passes with interfaces
# than with veth.

usage() {
	echo "usage: selftests.sh DIR [TEST...]" >&2
	exit 2
}
[ $# -gt 0 ] || usage
tree=$(cd -- "$1" && pwd) || exit 2
shift
[ $# -gt 0 ] || set -- bridge_vlan_unaware bridge_vlan_aware bridge_igmp bridge_mld \
	bridge_sticky_fdb bridge_port_isolation no_forwarding min_max_mtu \
	router router_bridge router_broadcast router_multipath router_nh router_vid_1 \
	gre_multipath gre_inner_v4_multipath ip6gre_flat ip6gre_hier_keys ip6gre_inner_v6_multipath \
	ipip_flat_gre ipip_hier_gre_keys
for test in lib "$@"; do
	file=$tree/tools/testing/selftests/net/forwarding/${test%.sh}.sh
	[ -e "$file" ] || {
		echo "selftests.sh: no such file '$file'" >&2
		exit 2
	}
done
suite=${SUITE:-sid}
logs=${LOGS:-}
[ -z "$logs" ] || logs=$(cd -- "$logs" && pwd) || exit 2

prepare() {
	dumm-fs kernel fetch --suite "$suite" --name "$suite" --may-exist
	dumm-fs master build debian --suite "$suite" --name "selftests-$suite" --may-exist --include \
		iproute2,jq,netsniff-ng,smcroute,ethtool,tcpdump,iputils-ping,iputils-arping,bc,procps,kmod
}
set -- "$tree" "$@"
# shellcheck source=examples/lib.sh
. "$(dirname "$0")/lib.sh"
shift

# Some tests send packets that are not valid IP; br_netfilter would drop them on the host's bridges.
# In an isolated lab it is off, and as root this namespace is our own.
if [ "$(id -u)" = 0 ] && [ -e /proc/sys/net/bridge ]; then
	for kind in iptables ip6tables arptables; do
		echo 0 >/proc/sys/net/bridge/bridge-nf-call-$kind
	done
fi

# p1 is connected to p2, p3 to p4, and so on. A guest cannot raise the MTU of a NIC, so it is what the
# tests want to raise it to.
dumm-fs init --kernel "$suite" --master "selftests-$suite"
{
	echo "guest create dut --memory 256M"
	for n in 1 3 5 7 9; do
		echo "bridge create cable$n"
		echo "iface create dut-eth$n dut-eth$((n + 1)) --bridge cable$n --mtu 2000"
	done
	echo "guest start dut"
} | dumm-console
dumm-fs cp "$tree/tools/testing/selftests/net" dut:/root
cat >forwarding.config <<'END'
for n in {1..10}; do NETIFS[p$n]=$CABLES$n; done # the tests call other devices veth1, veth2...
unset n
[ "$CABLES" != eth ] || NETIF_CREATE=no
END
dumm-fs cp forwarding.config dut:/root/net/forwarding

# try TEST pair|eth: run a test with veth devices or interfaces; its output goes to TEST.pair or .eth.
try() {
	dumm-guest exec -e CABLES="$2" -w /root/net/forwarding dut -- \
		timeout -k 10 900 "./$1.sh" >"$1.$2" 2>&1 || true
	[ -z "$logs" ] || cp "$1.$2" "$logs"
}
# count FILE: the numbers of passes, failures and skips.
count() {
	awk '/^TEST:.*\[ OK \]$/ { ok++ } /^TEST:.*\[X?FAIL\]$/ { bad++ } /^TEST:.*\[SKIP\]$|^SKIP:/ { skip++ }
		END { printf "%5d%5d%5d", ok, bad, skip }' "$1"
}

printf '%-34s%14s%19s\n' '' 'veth' 'interfaces'
printf '%-34s%5s%5s%5s    %5s%5s%5s\n' test pass fail skip pass fail skip
worse=
for test in "$@"; do
	test=${test%.sh}
	try "$test" pair
	try "$test" eth
	printf '%-34s%s    %s\n' "$test" "$(count "$test.pair")" "$(count "$test.eth")"
	if [ "$(count "$test.eth" | cut -c -5)" -lt "$(count "$test.pair" | cut -c -5)" ]; then
		worse="$worse $test"
		grep -A 1 '^TEST:.*\[X\?FAIL\]$' "$test.eth" || tail -n 3 "$test.eth"
	fi
done
[ -z "$worse" ] || fail "fewer passes with interfaces than with veth:$worse"
