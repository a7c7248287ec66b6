#!/bin/sh
# Multipath TCP: one connection over two cables. One of them is pulled out while a file is sent, and
# the file arrives. It needs a kernel from `dumm-fs kernel build`; KERNEL names it.

prepare() {
	need mptcp
	network_master
}
# shellcheck source=examples/lib.sh
. "$(dirname "$0")/lib.sh"

dumm-fs init --kernel "$KERNEL" --master network
dumm-console <<'END'
bridge create cable radio
guest create laptop server --memory 96M
iface create laptop-eth0 --bridge cable --address 10.0.1.1/24
iface create laptop-eth1 --bridge radio --address 10.0.2.1/24
iface create server-eth0 --bridge cable --address 10.0.1.2/24
iface create server-eth1 --bridge radio --address 10.0.2.2/24
iface shape server-eth0 --rate 2mbit
iface shape server-eth1 --rate 2mbit
guest start --all
END

# The driver of a guest's NICs counts 64 KiB of memory for each packet that waits. TCP corrects that, but
# Multipath TCP does not, and would stop with its usual buffer.
dumm-guest exec laptop -- sysctl -q -w net.ipv4.tcp_rmem='4096 16777216 33554432'

# The laptop adds a subflow on eth1 to each connection, to an address that the server announces.
dumm-guest exec server -- ip mptcp endpoint add 10.0.2.2 dev eth1 signal
dumm-guest exec laptop -- ip mptcp limits set add_addr_accepted 1 subflows 1

say "Start sending 12 MB, which takes 24 s at 4 Mbit/s"
dumm-guest exec server -- sh -ec '
	head -c 12000000 /dev/urandom >/root/file
	mptcpize run nc -l -N 5001 </root/file >/var/log/nc 2>&1 &'
until_true 60 sh -c 'dumm-guest exec server -- ss -H -l -n -t | grep :5001'
dumm-guest exec laptop -- sh -c 'mptcpize run nc -d 10.0.1.2 5001 >/root/file' &
transfer=$!

received() { dumm-guest exec laptop -- sh -c 'stat -c %s /root/file'; }
more_than() { [ "$(received)" -gt "$1" ]; }
rx() { dumm-guest exec laptop -- cat "/sys/class/net/$1/statistics/rx_bytes"; }
subflows() { dumm-guest exec laptop -- ss -H -n -t state established '( sport = :5001 or dport = :5001 )'; }

until_true 60 more_than 1000000
say "One connection with two subflows"
dumm-guest exec laptop -- ss -n -M | tee mptcp.txt
grep -q :5001 mptcp.txt || fail "not MPTCP"
subflows | tee tcp.txt
[ "$(wc -l <tcp.txt)" = 2 ] || fail "not two subflows"
say "So far eth0 has received $(rx eth0) bytes, eth1 $(rx eth1)"
[ "$(rx eth1)" -gt 100000 ] || fail "the second cable is not used"

say "Pull out the first cable"
dumm-bridge disconnect laptop-eth0
size=$(received)
[ "$size" -lt 12000000 ] || fail "too late: the file has arrived"
dumm-iface shape server-eth1 --rate 50mbit
wait "$transfer"
say "The file has arrived: $(received) bytes, $size of them before the cable was pulled"
sum() { dumm-guest exec "$1" -- sha256sum /root/file; }
[ "$(sum laptop)" = "$(sum server)" ] || fail "it is not the same file"
dumm-guest exec laptop -- nstat -a -s 'MPTcpExt*' | grep -v ' 0 '

say "Plain TCP, with the cable back, for comparison: it stops when its cable is pulled"
dumm-bridge connect cable laptop-eth0
dumm-guest exec server -- sh -c 'nc -l -N 5001 </root/file >/var/log/nc 2>&1 &'
until_true 60 sh -c 'dumm-guest exec server -- ss -H -l -n -t | grep :5001'
dumm-guest exec laptop -- sh -c 'timeout -s KILL 600 nc -d 10.0.1.2 5001 >/root/file' &
transfer=$!
until_true 60 more_than 500000
dumm-bridge disconnect laptop-eth0
sleep 1
size=$(received)
sleep 2
[ "$(received)" = "$size" ] || fail "plain TCP goes on without a cable"
[ "$size" -lt 12000000 ] || fail "too late: the file has arrived"
say "Stopped at $size bytes"
kill "$transfer"
wait "$transfer" || true
