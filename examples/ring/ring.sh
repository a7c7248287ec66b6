#!/bin/sh
# ring.sh N: print a lab file for a ring of N routers. Each sends what it does not know to the next.
set -eu
routers=$(seq "$1")

echo "fs init --isolated --master busybox"
for n in $routers; do
	echo "bridge create link$n"
done
for n in $routers; do
	cat <<-END
		guest create r$n --memory 48M
		guest startup r$n - <<'EOF'
		echo 1 >/proc/sys/net/ipv4/ip_forward
		EOF
	END
done
for n in $routers; do
	next=$((n % $1 + 1))
	echo "iface create r$n-eth0 --bridge link$n --address 10.0.$n.1/24"
	echo "iface create r$next-eth1 --bridge link$n --address 10.0.$n.2/24"
	echo "iface route add r$n-eth0 default --via 10.0.$n.2"
done
echo "guest start --all"
