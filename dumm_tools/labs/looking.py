"""Looking on the host for what a lab file names, as far as it is not in use already."""

from __future__ import annotations

import functools
import os
from typing import Literal

from dumm_tools.files import given, stack, template
from dumm_tools.guests import disks, guest
from dumm_tools.images import cache, kernel, master
from dumm_tools.labs.wanted import Host
from dumm_tools.model import Bridge, State


def host(labdir: str) -> Host:
    """This host, for files whose paths are relative to `labdir`."""

    @functools.cache
    def image(kind: Literal["kernel", "master"], spec: str) -> str:
        if kind == "kernel":
            said = _said(labdir, "kernels", spec)
            return guest.recorded(said, kernel.resolve(said).path)
        said = _said(labdir, "masters", spec)
        return guest.recorded(said, master.resolve(said).path)

    return Host(
        image,
        disks.checked,
        stack.located,
        functools.partial(given.checked, labdir),
        functools.partial(template.known, labdir),
        _uplink,
    )


def _uplink(state: State, bridge: Bridge) -> None:
    from dumm_tools.net import host_uplink

    device = host_uplink.device_of(bridge)
    others = [each for each in state.bridges.values() if each.name != bridge.name]
    if device is not None and (state.isolated or device not in map(host_uplink.device_of, others)):
        host_uplink.check_device(state, bridge, host_uplink.named(device))


def _said(labdir: str, kind: cache.Kind, spec: str) -> str:
    found = cache.find(kind, spec)
    return spec if found is not None or not spec else os.path.abspath(os.path.join(labdir, spec))
