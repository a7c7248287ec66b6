#!/bin/sh
# A client, a router and a web server on two segments, with nothing but busybox: done in two seconds.

prepare() {
	dumm-fs kernel fetch --may-exist
	dumm-fs master build busybox --may-exist
}
# shellcheck source=examples/lib.sh
. "$(dirname "$0")/lib.sh"

dumm-fs init --master busybox

# Run at each boot of the guest.
echo 'sysctl -q -w net.ipv4.ip_forward=1' >router
echo 'mkdir -p /srv && hostname >/srv/index.html && httpd -h /srv' >www

# A single dumm-console for all of it: each line is a command without "dumm-".
dumm-console <<'END'
bridge create lan dmz
guest create client router www
iface create client-eth0 --bridge lan --address 10.0.1.2/24
iface create router-eth0 --bridge lan --address 10.0.1.1/24
iface create router-eth1 --bridge dmz --address 10.0.2.1/24
iface create www-eth0 --bridge dmz --address 10.0.2.2/24
iface route add client-eth0 default --via 10.0.1.1
iface route add www-eth0 default --via 10.0.2.1
guest startup router router
guest startup www www
guest start --all --wait booted
END

say "The client fetches the server's page"
page=$(dumm-guest exec client -- wget -q -O - http://10.0.2.2/)
echo "$page"
[ "$page" = www ] || fail "wrong page: $page"

say "Traffic goes through the router"
dumm-guest exec client -- traceroute -n -q 1 -w 30 10.0.2.2 | tee route
grep -q ' 1  10\.0\.1\.1 ' route || fail "not through the router"
