#!/bin/sh
# SRv6: two IPv4 networks of a customer, connected across an IPv6 network. The first router writes the
# whole way into the packet's header: straight to the last router, or by way of another one. It needs a
# kernel from `dumm-fs kernel build`; KERNEL names it.

prepare() {
	need srv6 vrf
	dumm-fs master build busybox --may-exist
	network_master
}
# shellcheck source=examples/lib.sh
. "$(dirname "$0")/lib.sh"

# alice --- west === direct === east --- bob
#             \                 /
#           north --- mid --- south
dumm-fs init --kernel "$KERNEL" --master busybox
dumm-console <<'END'
bridge create left right direct north south
guest create alice bob
guest create west mid east --master network --memory 96M
iface create alice-eth0 --bridge left --address 10.1.0.10/24
iface create west-eth0 --bridge left --address 10.1.0.1/24
iface create west-eth1 --bridge direct --address 2001:db8::1/64
iface create west-eth2 --bridge north --address 2001:db8:1::1/64
iface create mid-eth0 --bridge north --address 2001:db8:1::2/64
iface create mid-eth1 --bridge south --address 2001:db8:2::2/64
iface create east-eth0 --bridge right --address 10.2.0.1/24
iface create east-eth1 --bridge direct --address 2001:db8::3/64
iface create east-eth2 --bridge south --address 2001:db8:2::3/64
iface create bob-eth0 --bridge right --address 10.2.0.10/24
iface route add alice-eth0 default --via 10.1.0.1
iface route add bob-eth0 default --via 10.2.0.1
guest start --all
END

# Each router has a locator, fc00:N::/64 for west (1), mid (2) and east (3). All segment identifiers
# are in table 90, which is looked up before those of the customers.
routers='west mid east'
for router in $routers; do
	dumm-guest exec "$router" -- sysctl -q -w net.ipv6.conf.all.forwarding=1 net.ipv4.ip_forward=1 \
		net.ipv6.conf.all.seg6_enabled=1 net.ipv6.conf.eth0.seg6_enabled=1 \
		net.ipv6.conf.eth1.seg6_enabled=1
	dumm-iface rule add "$router" --to fc00::/16 --table 90 --priority 999
done
dumm-console <<'END'
iface route add west-eth1 fc00:3::/64 --via 2001:db8::3 --table 90
iface route add west-eth2 fc00:2::/64 --via 2001:db8:1::2 --table 90
iface route add mid-eth0 fc00:1::/64 --via 2001:db8:1::1 --table 90
iface route add mid-eth1 fc00:3::/64 --via 2001:db8:2::3 --table 90
iface route add east-eth1 fc00:1::/64 --via 2001:db8::1 --table 90
iface route add east-eth2 fc00:2::/64 --via 2001:db8:2::2 --table 90
END

say "The customer has a VRF on both routers at its edge; fc00:N::d4 delivers to it"
for router in west east; do
	dumm-guest exec "$router" -- sh -ec '
		ip link add customer type vrf table 10
		ip link set customer up
		ip link set eth0 master customer
		sysctl -q -w net.vrf.strict_mode=1 net.ipv6.conf.eth2.seg6_enabled=1'
done
# sid ROUTER SEGMENT ACTION...: what the router does with packets for this segment
sid() {
	router=$1 segment=$2
	shift 2
	dumm-guest exec "$router" -- ip -6 route add "$segment" table 90 encap seg6local action "$@"
}
sid west fc00:1::d4 End.DT4 vrftable 10 dev customer
sid east fc00:3::d4 End.DT4 vrftable 10 dev customer
sid mid fc00:2::e End dev eth0
misses alice 10.2.0.10

# steer ROUTER NETWORK DEVICE SEGMENTS
steer() {
	dumm-guest exec "$1" -- ip route replace "$2" vrf customer encap seg6 mode encap segs "$4" dev "$3"
}
say "Steer the customer's packets straight to the other edge"
steer west 10.2.0.0/24 eth1 fc00:3::d4
steer east 10.1.0.0/24 eth1 fc00:1::d4
watch direct
reaches alice 10.2.0.10
watched 'ip6 proto 43' 2

say "Now to bob by way of mid, while the answers go straight back"
steer west 10.2.0.0/24 eth2 fc00:2::e,fc00:3::d4
watch south
reaches alice 10.2.0.10
watched 'ip6 proto 43 and dst net fc00:3::/64' 1
unseen 'src net 2001:db8::3'

say "Pull the cable of the detour: no other way is taken"
dumm-bridge disconnect mid-eth1
misses alice 10.2.0.10
