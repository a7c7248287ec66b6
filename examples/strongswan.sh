#!/bin/sh
# An IPsec tunnel between two gateways, moon and sun, on a network of eight guests: strongSwan on
# Debian, IKEv2 with a shared secret. The wire between them carries ESP and no cleartext; the tunnel
# survives unplugging a gateway's cable, plugging it in elsewhere, and back again.

prepare() {
	dumm-fs kernel fetch --may-exist
	network_master
}
# shellcheck source=examples/lib.sh
. "$(dirname "$0")/lib.sh"

dumm-fs init --master network
dumm-console <<'END'
bridge create north wire south elsewhere
guest create alice venus moon carol winnetou dave sun bob --memory 96M
iface create alice-eth0 --bridge north --address 10.1.0.10/16
iface create venus-eth0 --bridge north --address 10.1.0.20/16
iface create moon-eth0 --bridge wire --address 192.168.0.1/24
iface create moon-eth1 --bridge north --address 10.1.0.1/16
iface create carol-eth0 --bridge wire --address 192.168.0.100/24
iface create winnetou-eth0 --bridge wire --address 192.168.0.150/24
iface create dave-eth0 --bridge wire --address 192.168.0.200/24
iface create sun-eth0 --bridge wire --address 192.168.0.2/24
iface create sun-eth1 --bridge south --address 10.2.0.1/16
iface create bob-eth0 --bridge south --address 10.2.0.10/16
iface route add alice-eth0 default --via 10.1.0.1
iface route add venus-eth0 default --via 10.1.0.1
iface route add bob-eth0 default --via 10.2.0.1
iface route add moon-eth0 default --via 192.168.0.2
iface route add sun-eth0 default --via 192.168.0.1
guest start --all
END

# Hide swanctl's complaints about plugins that are not installed.
swan() {
	guest=$1
	shift
	dumm-guest exec "$guest" -- swanctl "$@" 2>/dev/null
}

# gateway NAME ADDRESS NET PEER ADDRESS NET
gateway() {
	cat >"$1.conf" <<END
connections {
	net-net {
		version = 2
		local_addrs = $2
		remote_addrs = $5
		local {
			auth = psk
			id = $1
		}
		remote {
			auth = psk
			id = $4
		}
		children {
			net-net {
				local_ts = $3
				remote_ts = $6
			}
		}
	}
}
secrets {
	ike-moon-sun {
		id-moon = moon
		id-sun = sun
		secret = "Enten nicht in Hamburg"
	}
}
END
	dumm-fs cp "$1.conf" "$1:/etc/swanctl/conf.d/net-net.conf"
	dumm-guest exec "$1" -- sysctl -q -w net.ipv4.ip_forward=1
	dumm-guest exec "$1" -- sh -c 'setsid /usr/lib/ipsec/charon </dev/null >/var/log/charon 2>&1 &'
	until_true 60 swan "$1" --load-all
}

say "Configure two gateways"
gateway moon 192.168.0.1 10.1.0.0/16 sun 192.168.0.2 10.2.0.0/16
gateway sun 192.168.0.2 10.2.0.0/16 moon 192.168.0.1 10.1.0.0/16

say "Ping in the clear, before the tunnel is up"
dumm-guest exec alice -- ping -c 1 -W 30 -q 10.2.0.10

say "Set up the tunnel"
swan moon --initiate --child net-net | tail -n 1

say "Capture on the wire while alice pings bob"
watch wire
dumm-guest exec alice -- ping -c 5 -i 0.2 -W 30 10.2.0.10
dumm-guest exec venus -- ping -c 1 -W 30 -q 10.2.0.10
watched esp 12
unseen 'icmp or net 10.0.0.0/8'

say "Move the gateway's cable to another segment, and back again"
dumm-bridge connect elsewhere moon-eth0
if dumm-guest exec alice -- ping -c 1 -W 1 -q 10.2.0.10; then fail "bob is still reachable"; fi
dumm-bridge connect wire moon-eth0
dumm-guest exec alice -- ping -c 3 -i 0.2 -W 30 10.2.0.10
swan moon --list-sas | tee sas
[ "$(grep -c ESTABLISHED sas)" = 1 ] || fail "not the same tunnel any more"
grep -q '#1, ESTABLISHED' sas || fail "not the same tunnel any more"
