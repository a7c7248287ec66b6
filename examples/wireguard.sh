#!/bin/sh
# A WireGuard tunnel between two guests: only encrypted UDP is on the wire, a stranger's key opens
# nothing, and the tunnel goes on when an end moves to another address. It needs a kernel from
# `dumm-fs kernel build`; KERNEL names it.

prepare() {
	need wireguard
	network_master
}
# shellcheck source=examples/lib.sh
. "$(dirname "$0")/lib.sh"

dumm-fs init --kernel "$KERNEL" --master network
dumm-console <<'END'
bridge create wire
guest create alice bob mallory --memory 96M
iface create alice-eth0 --bridge wire --address 192.0.2.1/24
iface create bob-eth0 --bridge wire --address 192.0.2.2/24
iface create mallory-eth0 --bridge wire --address 192.0.2.3/24
guest start --all
END

# A private key stays in its guest; others get the public one.
for guest in alice bob mallory; do
	dumm-guest exec "$guest" -- sh -c 'umask 077; wg genkey >/root/key; wg pubkey </root/key' >"$guest.pub"
done

# tunnel GUEST ADDRESS PEER ENDPOINT ALLOWED: a device wg0 with one peer.
tunnel() {
	cat >wg0.conf <<END
[Interface]
ListenPort = 51820

[Peer]
PublicKey = $(cat "$3.pub")
Endpoint = $4:51820
AllowedIPs = $5
END
	dumm-fs cp wg0.conf "$1:/etc/wireguard/wg0.conf"
	dumm-guest exec "$1" -- sh -e <<END
ip link add wg0 type wireguard
wg setconf wg0 /etc/wireguard/wg0.conf
wg set wg0 private-key /root/key
ip address add $2/24 dev wg0
ip link set wg0 up
END
}
tunnel alice 10.0.0.1 bob 192.0.2.2 10.0.0.2/32
tunnel bob 10.0.0.2 alice 192.0.2.1 10.0.0.1/32
tunnel mallory 10.0.0.3 bob 192.0.2.2 10.0.0.2/32

say "Capture on the wire while alice pings bob through the tunnel"
watch wire
reaches alice 10.0.0.2
reaches bob 10.0.0.1
watched 'udp port 51820' 6
unseen 'icmp or net 10.0.0.0/24'

say "Bob does not know mallory's key"
misses mallory 10.0.0.2

say "Alice moves to another address; bob follows her"
dumm-iface address add alice-eth0 192.0.2.100/24
dumm-iface address del alice-eth0 192.0.2.1/24
reaches alice 10.0.0.2
reaches bob 10.0.0.1
dumm-guest exec bob -- wg show wg0 | tee wg.txt
grep -q 'endpoint: 192.0.2.100:51820' wg.txt || fail "bob has not noticed"
