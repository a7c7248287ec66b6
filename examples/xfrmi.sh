#!/bin/sh
# XFRM interfaces: an IPsec tunnel that is a device, so that routes decide what is encrypted. Keys are
# set by hand with `ip xfrm`, where a real gateway has an IKE daemon (strongswan.sh). It needs a kernel
# from `dumm-fs kernel build`; KERNEL names it.

prepare() {
	need xfrmi
	dumm-fs master build busybox --may-exist
	network_master
}
# shellcheck source=examples/lib.sh
. "$(dirname "$0")/lib.sh"

dumm-fs init --kernel "$KERNEL" --master busybox
dumm-console <<'END'
bridge create north wire south
guest create alice bob
guest create moon sun --master network --memory 96M
iface create alice-eth0 --bridge north --address 10.1.0.10/24
iface create moon-eth1 --bridge north --address 10.1.0.1/24
iface create moon-eth0 --bridge wire --address 192.0.2.1/24
iface create sun-eth0 --bridge wire --address 192.0.2.2/24
iface create sun-eth1 --bridge south --address 10.2.0.1/24
iface create bob-eth0 --bridge south --address 10.2.0.10/24
iface route add alice-eth0 default --via 10.1.0.1
iface route add bob-eth0 default --via 10.2.0.1
iface route add moon-eth0 10.2.0.0/24 --via 192.0.2.2
iface route add sun-eth0 10.1.0.0/24 --via 192.0.2.1
guest start --all
guest exec moon -- sysctl -q -w net.ipv4.ip_forward=1
guest exec sun -- sysctl -q -w net.ipv4.ip_forward=1
END

say "Without the tunnel: in the clear"
watch wire
reaches alice 10.2.0.10
watched icmp 2

# One key for each direction; rfc4106(gcm(aes)) takes 16 bytes and a salt of 4.
moon_key=0x$(head -c 20 /dev/urandom | od -An -tx1 | tr -d ' \n')
sun_key=0x$(head -c 20 /dev/urandom | od -An -tx1 | tr -d ' \n')

# gateway GUEST LOCAL KEY REMOTE KEY: a device ipsec0. Its if_id joins it to states and policies.
gateway() {
	dumm-guest exec "$1" -- sh -e <<END
ip link add ipsec0 type xfrm dev eth0 if_id 42
ip link set ipsec0 up
ip xfrm state add src $2 dst $4 proto esp spi 0x1000 mode tunnel if_id 42 aead 'rfc4106(gcm(aes))' $3 128
ip xfrm state add src $4 dst $2 proto esp spi 0x1000 mode tunnel if_id 42 aead 'rfc4106(gcm(aes))' $5 128
ip xfrm policy add dir out if_id 42 tmpl src $2 dst $4 proto esp mode tunnel
ip xfrm policy add dir in if_id 42 tmpl src $4 dst $2 proto esp mode tunnel
ip xfrm policy add dir fwd if_id 42 tmpl src $4 dst $2 proto esp mode tunnel
END
}
gateway moon 192.0.2.1 "$moon_key" 192.0.2.2 "$sun_key"
gateway sun 192.0.2.2 "$sun_key" 192.0.2.1 "$moon_key"

say "The tunnel is up, but no route leads into it: still in the clear"
watch wire
reaches alice 10.2.0.10
watched icmp 2
unseen esp

say "With routes to it, everything is encrypted"
dumm-guest exec moon -- ip route replace 10.2.0.0/24 dev ipsec0
dumm-guest exec sun -- ip route replace 10.1.0.0/24 dev ipsec0
watch wire
reaches alice 10.2.0.10
watched esp 2
unseen icmp

say "The device counts, and can be captured from, as any other"
dumm-guest exec moon -- ip -s link show ipsec0 | tee link.txt
[ "$(dumm-guest exec moon -- cat /sys/class/net/ipsec0/statistics/tx_packets)" -ge 1 ] ||
	fail "nothing was sent through ipsec0"

say "Without the device, nothing passes, neither encrypted nor in the clear"
dumm-guest exec moon -- ip link set ipsec0 down
dumm-guest exec moon -- ip route add unreachable 10.2.0.0/24 metric 10
misses alice 10.2.0.10
