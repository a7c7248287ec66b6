#!/bin/sh
# A server: Debian with systemd, PostgreSQL, nginx and sshd, and a user who logs in from another guest.
# After a restart everything is still there.

prepare() {
	dumm-fs kernel fetch --may-exist
	dumm-fs master build debian --suite trixie --name server --may-exist --include \
		systemd-sysv,libnss-systemd,dbus,openssh-server,postgresql,nginx-light,curl
}
# shellcheck source=examples/lib.sh
. "$(dirname "$0")/lib.sh"

dumm-fs init --master server
dumm-console <<'END'
bridge create lan
guest create server --memory 256M --init /sbin/init
guest create client --memory 96M
iface create server-eth0 --bridge lan --address 10.0.0.1/24
iface create client-eth0 --bridge lan --address 10.0.0.2/24
guest start --all --wait booted --timeout 300
END

say "systemd has started the services"
dumm-guest exec server -- systemctl is-active postgresql@17-main nginx ssh

say "A user of the server, who may log in with the client's key, and own a database"
dumm-guest exec server -- useradd --create-home --shell /bin/bash alice
dumm-guest exec client -- ssh-keygen -q -N '' -f /root/.ssh/id_ed25519
dumm-guest exec client -- cat /root/.ssh/id_ed25519.pub |
	dumm-guest exec server -u alice -w /home/alice -- sh -c \
		'umask 077; mkdir .ssh; cat >.ssh/authorized_keys'
dumm-guest exec server -u postgres -w /tmp -- createuser alice
dumm-guest exec server -u postgres -w /tmp -- createdb --owner alice shop

# login COMMAND: run it on the server as alice, from the client.
login() {
	dumm-guest exec client -- ssh -o StrictHostKeyChecking=accept-new -o LogLevel=ERROR \
		alice@10.0.0.1 "$1"
}
say "She logs in from the client"
login 'id; psql -q -c "create table sold as select 42 as pieces" shop'

echo 'open from nine to five' >index.html
dumm-fs cp index.html server:/var/www/html/index.html

say "After a restart"
dumm-guest restart server --wait booted --timeout 300
page=$(dumm-guest exec client -- curl -sS http://10.0.0.1/)
pieces=$(login 'psql -A -t -c "select pieces from sold" shop')
say "the web page says: $page; the database says: $pieces"
[ "$page" = 'open from nine to five' ] || fail "not the page"
[ "$pieces" = 42 ] || fail "not the data"
