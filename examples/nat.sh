#!/bin/sh
# A NAT router with nftables: a home network that has a single public address. It needs a kernel from
# `dumm-fs kernel build`; KERNEL names it.

prepare() {
	need nft
	dumm-fs master build busybox --may-exist
	network_master
}
# shellcheck source=examples/lib.sh
. "$(dirname "$0")/lib.sh"

dumm-fs init --kernel "$KERNEL" --master busybox
dumm-console <<'END'
bridge create home internet
guest create pc server
guest create router --master network --memory 96M
iface create pc-eth0 --bridge home --address 192.168.1.10/24
iface create router-eth0 --bridge home --address 192.168.1.1/24
iface create router-eth1 --bridge internet --address 203.0.113.1/24
iface create server-eth0 --bridge internet --address 203.0.113.80/24
iface route add pc-eth0 default --via 192.168.1.1
guest start --all
guest exec router -- sysctl -q -w net.ipv4.ip_forward=1
END

# A web server on pc and on server, with one page: who serves it, and for whom.
cat >page <<'END'
#!/bin/sh
client=${REMOTE_ADDR#\[::ffff:}
printf 'Content-Type: text/plain\n\n%s serves %s\n' "$(hostname)" "${client%]}"
END
chmod +x page
for guest in pc server; do
	dumm-guest exec "$guest" -- mkdir -p /srv/cgi-bin
	dumm-fs cp page "$guest:/srv/cgi-bin/page"
	dumm-guest exec "$guest" -- httpd -h /srv
done
# fetches GUEST ADDRESS ANSWER
fetches() {
	page=$(dumm-guest exec "$1" -- timeout 60 wget -q -O - "http://$2/cgi-bin/page")
	say "$1 fetches http://$2/: $page"
	[ "$page" = "$3" ] || fail "not the answer expected: $3"
}

say "Without NAT: the server has no route to a private address, and its answers do not arrive"
misses pc 203.0.113.80

say "Masquerade packets that leave for the internet, and forward port 8080 to a server at home"
cat >nat.nft <<'END'
table ip nat {
	chain outgoing {
		type nat hook postrouting priority srcnat;
		oifname "eth1" ip saddr 192.168.1.0/24 counter masquerade
	}
	chain incoming {
		type nat hook prerouting priority dstnat;
		iifname "eth1" tcp dport 8080 counter dnat to 192.168.1.10:80
	}
}
END
dumm-fs cp nat.nft router:/etc/nftables.conf
dumm-guest exec router -- nft -f /etc/nftables.conf

reaches pc 203.0.113.80
fetches pc 203.0.113.80 "server serves 203.0.113.1"
fetches server 203.0.113.1:8080 "pc serves 203.0.113.80"
if dumm-guest exec server -- timeout 2 wget -q -O - http://203.0.113.1/cgi-bin/page 2>wget.txt; then
	fail "a port that is not forwarded is open"
fi

say "The router keeps each connection as it was sent, and as it is answered"
dumm-guest exec router -- cat /proc/net/nf_conntrack | tee conntrack
grep -q 'src=192.168.1.10 dst=203.0.113.80 .*src=203.0.113.80 dst=203.0.113.1 ' conntrack ||
	fail "no connection is translated"
dumm-guest exec router -- nft list ruleset
