#!/bin/sh
# A firewall with nftables: connection tracking, sets and counters, for IPv4 and IPv6 at once. It needs
# a kernel from `dumm-fs kernel build`; KERNEL names it.

prepare() {
	need nft
	dumm-fs master build busybox --may-exist
	network_master
}
# shellcheck source=examples/lib.sh
. "$(dirname "$0")/lib.sh"

dumm-fs init --kernel "$KERNEL" --master busybox
dumm-console <<'END'
bridge create inside outside
guest create www friend stranger
guest create firewall --master network --memory 96M
iface create www-eth0 --bridge inside --address 10.0.0.80/24 --address 2001:db8::80/64
iface create firewall-eth0 --bridge inside --address 10.0.0.1/24 --address 2001:db8::1/64
iface create firewall-eth1 --bridge outside --address 198.51.100.1/24 --address 2001:db8:1::1/64
iface create friend-eth0 --bridge outside --address 198.51.100.2/24 --address 2001:db8:1::2/64
iface create stranger-eth0 --bridge outside --address 198.51.100.3/24 --address 2001:db8:1::3/64
iface route add www-eth0 default --via 10.0.0.1
iface route add www-eth0 default --via 2001:db8::1
iface route add friend-eth0 default --via 198.51.100.1
iface route add friend-eth0 default --via 2001:db8:1::1
iface route add stranger-eth0 default --via 198.51.100.1
iface route add stranger-eth0 default --via 2001:db8:1::1
guest start --all
guest exec firewall -- sysctl -q -w net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1
guest exec www -- sh -c 'mkdir -p /srv && echo hello >/srv/index.html && httpd -h /srv && httpd -h /srv -p 8080'
END

nft() { dumm-guest exec firewall -- nft "$@"; }
# http GUEST ADDRESS: whether a page can be fetched.
http() { dumm-guest exec "$1" -- timeout 2 wget -O - "http://$2/" >wget.txt 2>&1; }
opens() {
	until_true 60 http "$1" "$2"
	say "$1 fetches http://$2/"
}
closed() {
	if http "$1" "$2"; then fail "$1 fetches http://$2/"; fi
	say "$1 cannot fetch http://$2/"
}
# counted NAME: the packets that a counter has seen.
counted() { nft list counter inet filter "$1" | sed -n 's/.*packets \([0-9]*\).*/\1/p'; }

say "Without rules, everything passes"
reaches stranger 10.0.0.80
reaches stranger 2001:db8::80
opens stranger 10.0.0.80:8080

say "With rules, only what was asked for from inside, and what the sets allow"
cat >filter.nft <<'END'
table inet filter {
	set services {
		type inet_service
		elements = { 80, 443 }
	}
	set friends {
		type ipv4_addr
		flags interval
		elements = { 198.51.100.2/31 }
	}
	set banned {
		type ipv4_addr
		flags timeout
	}
	counter answered { }
	counter banned { }
	counter dropped { }

	chain forward {
		type filter hook forward priority filter; policy drop;

		ct state established,related counter name answered accept
		ct state invalid drop
		iifname "eth0" accept
		ip saddr @banned counter name banned drop
		tcp dport @services accept
		ip saddr @friends tcp dport 8080 accept
		meta l4proto tcp reject with tcp reset
		counter name dropped
	}
}
END
dumm-fs cp filter.nft firewall:/etc/nftables.conf
nft -f /etc/nftables.conf

reaches www 198.51.100.3
reaches www 2001:db8:1::3
misses stranger 10.0.0.80
misses stranger 2001:db8::80
opens stranger 10.0.0.80
opens stranger '[2001:db8::80]'
opens friend 10.0.0.80:8080
closed stranger '[2001:db8::80]:8080'

say "Change sets while packets flow: no other rule is touched"
nft delete element inet filter friends '{ 198.51.100.2/31 }'
nft add element inet filter friends '{ 198.51.100.2 }'
opens friend 10.0.0.80:8080
closed stranger 10.0.0.80:8080
nft add element inet filter banned '{ 198.51.100.3 timeout 1h }'
closed stranger 10.0.0.80
nft flush set inet filter banned
opens stranger 10.0.0.80

nft list ruleset
for counter in answered banned dropped; do
	[ "$(counted $counter)" -gt 0 ] || fail "nothing was counted as $counter"
done
