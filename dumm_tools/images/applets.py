"""The applets of a busybox, read from its file, since a downloaded one is not run on this host."""

from __future__ import annotations

import os
import re

from dumm_tools.errors import DummError
from dumm_tools.images import elf

#: Applets that belong in sbin (busybox's include/applets.src.h, BB_DIR_SBIN and BB_DIR_USR_SBIN).
_SBIN = (
    "acpid addgroup add-shell adduser adjtimex arp arping blkid blockdev bootchartd brctl chpasswd"
    " chroot crond delgroup deluser depmod devmem dhcprelay dnsd ether-wake fakeidentd fbset"
    " fbsplash fdformat fdisk findfs freeramdisk fsck fsck.minix fsfreeze fstrim ftpd getty"
    " halt hdparm httpd hwclock i2cdetect i2cdump i2cget i2cset i2ctransfer ifconfig ifdown"
    " ifenslave ifplugd ifup inetd init insmod ip ipaddr iplink ipneigh iproute iprule iptunnel"
    " killall5 klogd loadfont loadkmap logread losetup lpd lsmod makedevs mdev mim mkdosfs mke2fs"
    " mkfs.ext2 mkfs.minix mkfs.reiser mkfs.vfat mkswap modinfo modprobe nameif nanddump nandwrite"
    " nbd-client nologin ntpd partprobe pivot_root popmaildir poweroff raidautorun rdate rdev"
    " readahead readprofile reboot remove-shell rmmod route rtcwake run-init runlevel sendmail"
    " setconsole setfont setlogcons slattach start-stop-daemon sulogin svlogd swapoff swapon"
    " switch_root sysctl syslogd tc telnetd tftpd tune2fs tunctl ubiattach ubidetach ubimkvol"
    " ubirename ubirmvol ubirsvol ubiupdatevol udhcpc udhcpd uevent vconfig watchdog"
    " zcip"
)
#: The list of names in the file: sorted, each terminated by NUL, with an additional NUL at the end.
_LIST = re.compile(rb"\[\0\[\[\0((?:[a-z0-9][a-z0-9_.+-]{0,31}\0){20,1000})\0")
_SIZE_MAX = 32 << 20


def of(path: str) -> dict[str, str]:
    """The applets of a busybox, each with its place in a tree. DummError if it is not a busybox."""
    fd = elf.opened(path)
    try:
        elf.image(fd, path)
        with open(fd, "rb", closefd=False) as file:
            found = _LIST.search(file.read(_SIZE_MAX))
    finally:
        os.close(fd)
    if found is None:
        raise DummError(f"'{path}' is not a busybox binary")
    names = ["[", "[[", *found[1].decode("ascii").split("\0")[:-1]]
    sbin = frozenset(_SBIN.split())
    return {name: "usr/sbin" if name in sbin else "usr/bin" for name in names}
