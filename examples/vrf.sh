#!/bin/sh
# VRF: one router, two customers with the same addresses. Each has a routing table of its own, and
# neither sees the other; then a service is opened to one of them. KERNEL names a kernel pack, if
# it is not to be the first one that has VRF (Debian's have).

prepare() {
	dumm-fs kernel fetch --may-exist
	need vrf
	dumm-fs master build busybox --may-exist
	network_master
}
# shellcheck source=examples/lib.sh
. "$(dirname "$0")/lib.sh"

dumm-fs init --kernel "$KERNEL" --master busybox
dumm-console <<'END'
bridge create red1 red2 blue1 blue2 shared
guest create red-a red-b blue-a blue-b service
guest create router --master network --memory 96M
iface create red-a-eth0 --bridge red1 --address 10.0.1.10/24
iface create red-b-eth0 --bridge red2 --address 10.0.2.10/24
iface create blue-a-eth0 --bridge blue1 --address 10.0.1.10/24
iface create blue-b-eth0 --bridge blue2 --address 10.0.2.10/24
iface create service-eth0 --bridge shared --address 10.9.0.10/24
iface create router-eth1 --bridge red1
iface create router-eth2 --bridge red2
iface create router-eth3 --bridge blue1
iface create router-eth4 --bridge blue2
iface create router-eth5 --bridge shared --address 10.9.0.1/24
iface route add red-a-eth0 default --via 10.0.1.1
iface route add red-b-eth0 default --via 10.0.2.1
iface route add blue-a-eth0 default --via 10.0.1.1
iface route add blue-b-eth0 default --via 10.0.2.1
iface route add service-eth0 default --via 10.9.0.1
guest start --all
guest exec router -- sysctl -q -w net.ipv4.ip_forward=1
END

# vrf NAME TABLE FIRST SECOND: two devices with the addresses that both customers use.
vrf() {
	dumm-guest exec router -- sh -e <<END
ip link add $1 type vrf table $2
ip link set $1 up
ip route add unreachable default metric 4278198272 vrf $1
ip link set $3 master $1
ip link set $4 master $1
ip address add 10.0.1.1/24 dev $3
ip address add 10.0.2.1/24 dev $4
END
}
vrf red 10 eth1 eth2
vrf blue 20 eth3 eth4

# 10.0.2.10 is another guest for each of them.
for guest in red-b blue-b; do
	dumm-guest exec "$guest" -- sh -c 'mkdir -p /srv && hostname >/srv/index.html && httpd -h /srv'
done
for colour in red blue; do
	page=$(dumm-guest exec "$colour-a" -- wget -q -O - http://10.0.2.10/)
	say "$colour-a finds $page at 10.0.2.10"
	[ "$page" = "$colour-b" ] || fail "not its own"
done

say "A table for each, and the main one, which knows neither"
for vrf in red blue; do dumm-guest exec router -- ip route show vrf "$vrf"; done
dumm-guest exec router -- ip route show
misses red-a 10.9.0.10
misses blue-a 10.9.0.10

say "Leak routes: red may use the service, which may answer"
dumm-guest exec router -- ip route add 10.9.0.0/24 dev eth5 vrf red
dumm-guest exec router -- ip route add 10.0.1.0/24 dev eth1
reaches red-a 10.9.0.10
misses blue-a 10.9.0.10

say "From the router itself, a ping is sent in the table of the device that it names"
dumm-guest exec router -- ping -c 1 -W 30 -I red 10.0.2.10
