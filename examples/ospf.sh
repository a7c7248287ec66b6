#!/bin/sh
# OSPF on a ring of six routers (FRR on Debian): a segment is cut while a ping runs over it, and the
# traffic is rerouted the other way round.

prepare() {
	dumm-fs kernel fetch --may-exist
	dumm-fs master build debian --name frr --may-exist --include frr
}
# shellcheck source=examples/lib.sh
. "$(dirname "$0")/lib.sh"

routers='r1 r2 r3 r4 r5 r6'

dumm-fs init --master frr
{
	echo "guest create $routers --memory 96M"
	# Segment ringN connects eth1 of rN to eth0 of the next router.
	for n in 1 2 3 4 5 6; do
		next=$((n % 6 + 1))
		echo "bridge create ring$n"
		echo "iface create r$n-eth1 --bridge ring$n --address 10.0.$n.1/24"
		echo "iface create r$next-eth0 --bridge ring$n --address 10.0.$n.2/24"
	done
	echo "guest start --all"
} | dumm-console

cat >frr.conf <<'END'
interface eth0
 ip ospf network point-to-point
 ip ospf hello-interval 1
 ip ospf dead-interval 10
interface eth1
 ip ospf network point-to-point
 ip ospf hello-interval 1
 ip ospf dead-interval 10
router ospf
 timers throttle spf 0 50 500
 timers throttle lsa all 100
 timers lsa min-arrival 50
 network 10.0.0.0/16 area 0
END
for router in $routers; do
	dumm-fs cp frr.conf "$router:/etc/frr/frr.conf"
	dumm-guest exec "$router" -- sh -c '
		sysctl -q -w net.ipv4.ip_forward=1
		/usr/lib/frr/zebra -d && /usr/lib/frr/ospfd -d && vtysh -b' >frr.txt 2>&1 || fail "$(cat frr.txt)"
done

way() { dumm-guest exec r1 -- ip -4 route get 10.0.2.2; }

# Wait for complete adjacencies: until the ring is closed, there is no alternative path.
neighbours() {
	[ "$(dumm-guest exec "$1" -- vtysh -c 'show ip ospf neighbor' | grep -c ' Full')" = 2 ]
}
say "The ring closes"
for router in $routers; do until_true 60 neighbours "$router"; done

say "r1 learns the route to r3 via r2"
until_true 60 sh -c 'dumm-guest exec r1 -- ip -4 route get 10.0.2.2 | grep "via 10.0.1.2"'
until_true 60 dumm-guest exec r1 -- ping -c 1 -W 1 -I 10.0.6.2 10.0.2.2
way

say "Cut the segment between r1 and r2 while a ping runs"
dumm-guest exec r1 -- ping -c 80 -i 0.1 -W 1 -q -I 10.0.6.2 10.0.2.2 >ping.txt &
ping=$!
sleep 2
dumm-bridge disconnect r1-eth1 r2-eth0
wait "$ping" || true
cat ping.txt
until_true 60 sh -c 'dumm-guest exec r1 -- ip -4 route get 10.0.2.2 | grep "via 10.0.6.1"'
way
until_true 60 dumm-guest exec r1 -- ping -c 1 -W 1 -I 10.0.6.2 10.0.2.2
