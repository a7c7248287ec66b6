#!/bin/sh
# Build strongSwan in the root tree of the hosts: run by build.sh, inside that tree, with the checkout
# in /root/strongswan. The options are those of the checkout's own recipe.
set -eu
source=/root/strongswan
testing=$source/testing
export LEAK_DETECTIVE_DISABLE=1

# The trusted key manager is not in Debian. The Python module needs no building.
# shellcheck disable=SC2016 # a variable of make
options=$(cd "$testing/scripts/recipes" && printf 'print:\n\t@echo $(CONFIG_OPTS)\n' |
	make -s -f 013_strongswan.mk -f - print)
for option in --enable-tkm --enable-python-wheels; do
	options=$(echo " $options " | sed "s| $option | |")
done
cd "$source"
autoreconf -i
mkdir /root/build
cd /root/build
# shellcheck disable=SC2086 # a list of words
"$source/configure" $options
make -s -j "$(nproc)"
make -s install
echo /usr/local/lib/ipsec >/etc/ld.so.conf.d/strongswan.conf
ldconfig
cp -r "$source/src/libcharon/plugins/vici/python/vici" /usr/lib/python3/dist-packages

# Included by the configuration that is built in; each host has its own.
touch /etc/strongswan.conf

# Certificates and keys, for hosts and scenarios alike.
bash "$testing/scripts/build-certs-chroot"

# As testing/scripts/build-baseimage and build-guestimages do, for all hosts.
mv /usr/local/sbin/ipsec /usr/local/sbin/ipsec.orig
cp /root/systemctl /usr/bin/systemctl
update-alternatives --set iptables /usr/sbin/iptables-legacy
update-alternatives --set ip6tables /usr/sbin/ip6tables-legacy
a2enmod -q cgid rewrite
passwd -d root
dbus-uuidgen --ensure
# Files that belong to this machine, or to the hosts that upstream starts.
rm -rf /root/build /etc/resolv.conf /etc/hostname /etc/fstab
