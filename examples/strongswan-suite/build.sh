#!/bin/sh
# build.sh CHECKOUT DIR: build what the suite runs on, from a checkout of strongSwan's sources:
# the master `strongswan`, a Debian with the servers that scenarios use and strongSwan as its
# testing/scripts build it; and DIR/testing, a copy of its suite with certificates and keys.
# Both are made anew if they exist. The checkout itself is only read. MASTER and SUITE name another
# master and Debian suite.
#
# It needs mmdebstrap, and no root. DIR/base-*.tar is Debian without strongSwan, for the next time.
set -eu

usage() {
	sed -n '2,8s/^# //p' "$0" >&2
	exit 2
}
refuse() {
	echo "build.sh: $1" >&2
	exit "$2"
}
[ $# = 2 ] || usage
[ -e "$1/testing/do-tests" ] || refuse "no checkout of strongSwan: '$1'" 3
# Its objects would be used here, and they are for another machine.
[ ! -e "$1/config.status" ] || refuse "built in place, make distclean first: '$1'" 4
umask 022 # servers of the hosts read files of the suite
checkout=$(cd "$1" && pwd -P)
dir=$(realpath -m "$2")
case $dir/ in "$checkout"/*) refuse "within the checkout: '$2'" 2 ;; esac
mkdir -p "$dir"
exec 9>"$dir/.lock"
flock -n 9 || refuse "another build.sh uses '$2'" 4
here=$(cd "$(dirname "$0")" && pwd)
suite=${SUITE:-trixie}
master=${MASTER:-strongswan}

packages="
	iproute2 iputils-ping procps psmisc kmod iptables conntrack ethtool ifupdown traceroute tcpdump
	netcat-openbsd socat iperf3 less file perl dbus ca-certificates bsdextrautils
	python3 python3-daemon
	rsyslog openssh-server openssh-client apache2 slapd ldap-utils bind9 bind9-dnsutils bind9-utils
	freeradius freeradius-utils isc-dhcp-server sqlite3 openssl wget
	build-essential pkg-config autoconf automake libtool gettext gperf bison flex
	libgmp-dev libcurl4-openssl-dev libldap2-dev libssl-dev libsqlite3-dev libgcrypt20-dev
	libbotan-3-dev libwolfssl-dev libunbound-dev libldns-dev libiptc-dev libxtables-dev
	libsystemd-dev systemd-dev libjson-c-dev libxml2-dev libtspi-dev libtss2-dev"

base=base-$suite-$(echo "$packages" | cksum | cut -d ' ' -f 1).tar
if [ ! -e "$dir/$base" ]; then
	rm -f "$dir"/base-*.tar
	# shellcheck disable=SC2086 # a list of words
	mmdebstrap --variant=minbase --format=tar --include="$(echo $packages | tr ' ' ,)" \
		--aptopt='Acquire::Check-Valid-Until "false"' --dpkgopt=force-unsafe-io \
		--dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/man/*' \
		"$suite" "$dir/debian.tar"
	# Nobody but root could unpack device nodes.
	mmtarfilter --path-exclude='/dev/*' <"$dir/debian.tar" >"$dir/base.new"
	mv "$dir/base.new" "$dir/$base"
	rm "$dir/debian.tar"
fi

# mmdebstrap's own hooks, whose files are read and written as the caller, not in a namespace of
# mmdebstrap, where they may be out of reach.
cd "$dir"
tar -C "$checkout" --exclude=.git -cf checkout.tar .
cp "$here/in-tree.sh" "$here/systemctl" .
# shellcheck disable=SC2016 # hooks are run by sh, with the tree as $1
mmdebstrap --variant=custom --skip=update,check/empty --format=tar \
	--setup-hook="tar-in $base /" \
	--customize-hook='mkdir "$1/root/strongswan"' \
	--customize-hook='tar-in checkout.tar /root/strongswan' \
	--customize-hook='copy-in in-tree.sh systemctl /root' \
	--customize-hook='chroot "$1" sh /root/in-tree.sh' \
	--customize-hook='tar-out /root/strongswan/testing testing.tar' \
	--customize-hook='rm -r "$1/root/strongswan" "$1/root/in-tree.sh" "$1/root/systemctl"' \
	'' strongswan.tar
rm -rf testing
tar --no-same-owner -xf testing.tar
if dumm-fs master list -q | grep -qxF "$master"; then
	dumm-fs master delete "$master"
fi
dumm-fs master import strongswan.tar --name "$master"
rm checkout.tar testing.tar strongswan.tar in-tree.sh systemctl
