"""The command line of a guest's kernel, except for its NICs, which may differ from boot to boot
(agent/jail/boot.c)."""

from __future__ import annotations

import re
from collections.abc import Container, Sequence

from dumm_tools.agent.client import LINES
from dumm_tools.guests.run_dir import CONSOLES
from dumm_tools.model import Guest

#: Arguments that only we may set: another value, or words after `--`, would cut the guest off.
_OURS = re.compile(
    r"--.*|(mem|umid|uml_dir|initrd|rdinit|DUMM_\w+|(con|ssl)\d*|virtio_uml\.device)(=.*)?"
    r"|vec\d*([:=].*)?",
    re.DOTALL,
)
#: The socket of the server of the root file system, in the kernel's jail.
SOCKET = "/files"
#: The patch without which newer kernels can be stuck at a reboot (agent/jail/ending.c), so that
#: they need a parent which starts them anew.
ENDING = "virtiofs-broken-queues"


def is_ours(argument: str) -> bool:
    """Whether only we may set a kernel argument."""
    return _OURS.fullmatch(argument) is not None


#: Drivers that create devices as soon as they are there, such as a bond0 that nobody asked for, and
#: how to keep them from it; systemd does the same for modules.
_WITHOUT_DEVICES = {
    "bonding": "bonding.max_bonds=0",
    "dummy": "dummy.numdummies=0",
    "ifb": "ifb.numifbs=0",
}


def of_boot(
    guest: Guest,
    nonce: str,
    *,
    release: tuple[int, ...],
    own_user: bool,
    served: bool = False,
    files: int | None = None,
    drivers: Container[str] = (),
    patches: Container[str] = (),
) -> list[str]:
    """The arguments for one boot of a guest with a kernel of that release and with these drivers
    and patches built in, without terminals. `files`: how many files its server can have open, if
    the kernel must not remember more."""
    args = [
        f"mem={guest.memory >> 10}K",
        "initrd=/initrd",
        "uml_dir=/run/uml",
        "umid=m",
        "quiet",
        # A speed test of RAID6 takes 81 % of a stock boot; the delay loop, 20 % of the rest. On a
        # kernel with trace events, 0.4 s go into the names of constants in their descriptions.
        "initcall_blacklist=raid6_init,raid6_select_algo,calibrate_xor_blocks,trace_eval_init",
        "lpj=20000000",
        # For each of the 256 old pairs of terminals the kernel runs a missing /sbin/hotplug twice:
        # 512 threads, most of which may be waiting to be ended at the same time. With 64M the limit
        # is 502, and whatever needs a thread next fails (-EAGAIN), usually all of IPv6.
        "pty.legacy_count=0",
        f"DUMM_NONCE={nonce}",
        f"DUMM_LINES={LINES}",
    ]
    args += [argument for driver, argument in _WITHOUT_DEVICES.items() if driver in drivers]
    if served:
        args.append(f"virtio_uml.device={SOCKET}:26")  # VIRTIO_ID_FS, linux/virtio_ids.h
        if release >= (6, 15) and ENDING not in patches:
            args.append("DUMM_KEEP=1")
    if files is not None:
        args.append(f"DUMM_FILES={files}")
    # Guests that share a user and pass descriptors could exhaust each other's limit for that.
    if release >= (6, 16) and own_user:
        args.append("seccomp=on")
    # The user's arguments replace ours.
    said = {a.partition("=")[0] for a in guest.args}
    return [a for a in args if a.partition("=")[0] not in said] + guest.args


def passes_descriptors(args: Sequence[str]) -> bool:
    """Whether a kernel with these arguments passes descriptors to its processes."""
    return any(arg in ("seccomp=on", "seccomp=auto") for arg in args)


def of_terminals(first: int) -> list[str]:
    """The arguments for consoles and lines, whose descriptors are numbered from `first` in the
    order of `run_dir.terminals`."""
    args = ["con=null", f"con0=fd:{first},fd:1"]
    for number in range(1, CONSOLES):
        at = first + 2 * number - 1
        args.append(f"con{number}=fd:{at},fd:{at + 1}")
    lines = first + 2 * CONSOLES - 1
    args += [f"ssl{n}=fd:{lines + 2 * n},fd:{lines + 2 * n + 1}" for n in range(LINES)]
    return args
