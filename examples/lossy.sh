#!/bin/sh
# A slow link between two guests that need only busybox: TCP goodput compared with the rate set.

prepare() {
	dumm-fs kernel fetch --may-exist
	dumm-fs master build busybox --may-exist
}
# shellcheck source=examples/lib.sh
. "$(dirname "$0")/lib.sh"

dumm-fs init --master busybox
dumm-console <<'END'
bridge create line
guest create near far
iface create near-eth0 --bridge line --address 10.0.0.1/24
iface create far-eth0 --bridge line --address 10.0.0.2/24
guest start --all
END

# goodput BYTES: fetch that many bytes from near on far; print bits per second by far's clock.
goodput() {
	dumm-guest exec near -- truncate -s "$1" /srv/file
	# shellcheck disable=SC2016 # expanded by the guest's shell
	dumm-guest exec -e BYTES="$1" far -- sh -ec '
		read -r start _ </proc/uptime
		wget -q -O /dev/null http://10.0.0.1/file
		read -r end _ </proc/uptime
		awk "BEGIN { printf \"%d\n\", $BYTES * 8 / ($end - $start) }"'
}
dumm-guest exec near -- sh -c 'mkdir -p /srv && httpd -h /srv'

# Three seconds' worth. A frame counts as 1514 bytes for the rate, and carries 1448 bytes of the file.
# Only what is too fast is a failure: a busy machine may well be slower.
for rate in 1 4 16; do
	dumm-iface shape near-eth0 --rate "${rate}mbit"
	found=$(goodput $((rate * 375000)))
	share=$((found * 1514 / 1448 / (rate * 10000)))
	say "rate $rate Mbit/s: goodput $found bit/s, $share % of the maximum for TCP"
	[ "$share" -le 110 ] || fail "faster than the rate"
done

say "Add a delay: earlier settings are kept"
dumm-iface shape near-eth0 --rate 4mbit --delay 10
dumm-iface shape far-eth0 --delay 10
dumm-iface show near-eth0 -o shape
dumm-guest exec near -- ping -c 5 -i 0.2 -q 10.0.0.2 | tee ping.txt
average=$(sed -n 's,.*= [0-9.]*/\([0-9]*\)\..*,\1,p' ping.txt)
[ "$average" -ge 20 ] || fail "a round trip of $average ms"

say "Add loss: 2 % of the packets that near sends"
dumm-iface shape near-eth0 --loss 2
dumm-iface show near-eth0 -o shape
found=$(goodput 1000000)
say "goodput $found bit/s"
