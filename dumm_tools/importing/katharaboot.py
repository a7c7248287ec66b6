"""The beginning of a startup script: Kathara's own preparations in a device."""

from __future__ import annotations

import os
from collections.abc import Mapping

from dumm_tools.importing import script

#: Kathara's settings for all devices, and for those with and without IPv6.
_SYSCTLS = {
    "net.ipv4.conf.all.rp_filter": "0",
    "net.ipv4.conf.default.rp_filter": "0",
    "net.ipv4.ip_forward": "1",
    "net.ipv4.icmp_ratelimit": "0",
}
_WITH_IPV6 = {
    "net.ipv6.conf.all.forwarding": "1",
    "net.ipv6.conf.all.accept_ra": "0",
    "net.ipv6.icmp.ratelimit": "0",
}
_WITHOUT_IPV6 = {
    "net.ipv6.conf.default.disable_ipv6": "1",
    "net.ipv6.conf.all.disable_ipv6": "1",
}
#: Directories of a device that Kathara gives to others than root.
_RIGHTS = {
    "var/www": b"chmod -R 777 /var/www/*\n",
    "etc/quagga": b"chown -R quagga:quagga /etc/quagga; chmod 640 /etc/quagga/*\n",
    "etc/frr": b"chown -R frr:frr /etc/frr; chmod 640 /etc/frr/*\n",
}
_HOSTS = b"[ -s /etc/hosts ] || printf '127.0.0.1 localhost\\n127.0.1.1 %s\\n' >/etc/hosts\n"
#: Kathara's images have a program of this name that does without systemd, and labs rely on it.
_SYSTEMCTL = b"""\
[ -d /run/systemd/system ] || [ -e /usr/local/bin/systemctl ] || {
	mkdir -p /usr/local/bin && cat >/usr/local/bin/systemctl && chmod 755 /usr/local/bin/systemctl
} <<'EOF'
#!/bin/sh
unit=${2%.service}
[ "$unit" != bind9 ] || unit=named
for script in "/etc/init.d/$unit" "/usr/lib/$unit/${unit}init.sh"; do
	[ ! -x "$script" ] || exec "$script" "$1"
done
echo "systemctl: no service '$unit'" >&2
exit 5
EOF
"""


def beginning(name: str, ipv6: bool, sysctls: Mapping[str, str]) -> list[bytes]:
    """The lines for a device with this name and these settings."""
    settings = {**_SYSCTLS, **(_WITH_IPV6 if ipv6 else _WITHOUT_IPV6), **sysctls}
    return [script.BASH, *script.sysctls(settings), _HOSTS % name.encode(), _SYSTEMCTL]


def rights(directory: str) -> list[bytes]:
    """The lines for the files in a device's directory."""
    return [line for name, line in _RIGHTS.items() if os.path.isdir(os.path.join(directory, name))]
