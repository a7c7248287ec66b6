#!/usr/bin/env python3
"""An inventory of Ansible: the guests of the working set in DUMM_DIR, or in the current directory.

    ansible-inventory -i dumm_inventory.py --list

All guests are hosts. For each state there is a group such as `running`, and for each bridge one
such as `bridge_lan0` with the guests that are connected to it. The name of a group ends in `_2`
(and so on) if a guest or another group has it. The variables of a host are the fields of
`dumm-guest list`, as `dumm_memory`, and `dumm_addresses`, by device.
"""

from __future__ import annotations

import itertools
import json
import os
import re
import subprocess
import sys


def listed(tool):
    done = subprocess.run([tool, "list", "--format", "json"], stdout=subprocess.PIPE, check=True)
    return json.loads(done.stdout)


def group(name, taken):
    """A name that Ansible accepts for a group, and that nothing else has."""
    name = re.sub(r"[^A-Za-z0-9_]", "_", name)
    free = (f"{name}_{number}" for number in itertools.count(2))
    found = name if name not in taken else next(each for each in free if each not in taken)
    taken.add(found)
    return found


def inventory():
    hosts, states, bridges = {}, {}, {}
    for guest in listed("dumm-guest"):
        name = guest["name"]
        hosts[name] = {f"dumm_{field}": value for field, value in guest.items()}
        hosts[name] |= {"dumm_addresses": {}, "dumm_directory": os.path.abspath(directory())}
        states.setdefault(guest["state"], []).append(name)
    for iface in listed("dumm-iface"):
        name = iface["guest"]
        hosts[name]["dumm_addresses"][iface["device"]] = iface["addresses"]
        if iface["bridge"]:
            bridges.setdefault(f"bridge_{iface['bridge']}", {})[name] = True
    taken = {"all", "ungrouped", "_meta", *hosts}
    groups = {
        group(name, taken): {"hosts": list(members)}
        for name, members in [*sorted(states.items()), *sorted(bridges.items())]
    }
    everyone = {"hosts": sorted(hosts), "vars": {"ansible_connection": "dumm"}}
    return {"all": everyone, **groups, "_meta": {"hostvars": hosts}}


def directory():
    return os.environ.get("DUMM_DIR") or "."


def main():
    found = inventory()
    if sys.argv[1:2] == ["--host"]:
        found = found["_meta"]["hostvars"].get(sys.argv[2], {})
    json.dump(found, sys.stdout, indent=1)
    print()


if __name__ == "__main__":
    try:
        main()
    except subprocess.CalledProcessError as e:
        sys.exit(e.returncode)
