"""A user's program that uses all of the library, for type checkers: see test_library.py."""

from __future__ import annotations

import asyncio
import re
import signal
from pathlib import Path

from dumm_tools import (
    Bridge,
    Capture,
    CommandFailed,
    Completed,
    Conflict,
    DummError,
    ExecFailed,
    Guest,
    Iface,
    Lab,
    NotFound,
    Packet,
    Program,
    SessionEnded,
    StartFailed,
    Template,
    TimedOut,
    Usage,
)


def build(lab: Lab) -> tuple[Guest, Guest]:
    lan: Bridge = lab.bridge("lan0").create(addresses="10.0.0.254/24", kind="switch")
    alice = lab.guest("alice").create(memory="64M", args=["quiet"], startup="true\n", start=False)
    bob: Guest = lab.guest("bob").create(master=Path("tree"), may_exist=True, wait="booted")
    nic: Iface = alice.iface("eth0").create(bridge=lan, addresses=["10.0.0.1/24"], mtu=1400)
    bob.iface("eth0").create(bridge="lan0", addresses="10.0.0.2/24")
    nic.address_add("10.0.0.3/24")
    nic.address_del("10.0.0.3/24", if_exists=True)
    addresses: list[str] = nic.addresses(live=True)
    nic.route_add("default", via=["10.0.0.254"], metric=10)
    nic.route_del("default")
    nic.shape(delay=5, loss="1%", rate=10_000_000)
    nic.set(mtu=1300)
    nic.up()
    nic.down()
    nic.disconnect()
    nic.connect(lan)
    lan.connect(nic, "bob-eth0")
    lan.address_add("10.1.0.254/24")
    lan.address_del("10.1.0.254/24")
    lan.uplink("nat", host_access=True)
    lan.uplink(None)
    lan.set("hub")
    lan.down()
    lan.up()
    print(addresses, lan.show().members, nic.show().rx_bytes, alice.show().uptime)
    return alice, bob


def life(lab: Lab, alice: Guest, bob: Guest) -> None:
    try:
        lab.start(alice, "bob", timeout=60, wait="booted")
    except StartFailed as e:
        for guest, message in e.failures:
            print(guest, message, e.exit_code, e.hint)
    alice.start(may_run=True)
    alice.restart(wait="ready")
    alice.pause()
    alice.resume()
    alice.set(memory=1 << 27, disks=[], files=[])
    alice.set_startup(b"true\n")
    script: str | None = alice.startup()
    alice.wait("booted", timeout=5)
    alice.wait_until(["true"], match=re.compile("^x"), timeout=5)
    running: bool = alice.is_running()
    print(script, running, alice.console_log(10), alice.mconsole("version"))
    alice.send("reboot", line=0)
    lab.stop(bob, if_running=True)
    alice.stop(kill=True)
    alice.reset()
    alice.commit("./layer")
    alice.rule_add(source="10.0.0.0/8", table=7)
    print(alice.rules()[0]["priority"], alice.routes(live=True)[0].via)
    alice.rule_del(source="10.0.0.0/8")
    alice.delete(if_exists=True)


def programs(alice: Guest) -> None:
    done: Completed[str] = alice.run(["ls"], check=True, env={"A": "b"}, cwd="/", user="root")
    raw: Completed[bytes] = alice.run(["cat"], input=b"x", text=False, stdout=Path("out"))
    print(done.stdout.upper(), raw.stdout.hex(), done.seconds + 1.5, raw.returncode + 1)
    with alice.popen(["cat"]) as program:
        program.stdin.write("text")
        program.stdin.close()
        for line in program.stdout:
            print(line.strip())
        print(program.stderr.read(10), program.stdout.readline(), program.poll())
        program.send_signal(signal.SIGHUP)
        program.terminate()
        program.kill()
        status: int = program.wait(timeout=5)
        print(status)
    other: Program[bytes] = alice.popen(["cat"], text=False)
    other.stdin.write(b"bytes")
    other.end()
    ended: Completed[bytes] = other.completed()
    print(ended.stdout)


def files(lab: Lab, alice: Guest) -> None:
    alice.copy_to("a", Path("b"), path="/root")
    alice.copy_from("/root/a", to=Path("."))
    alice.write_text("/a", alice.read_text("/b"))
    alice.write_bytes("/a", alice.read_bytes("/b"), mode=0o600)
    lab.copy("alice:/a", to="bob:/a")
    print([change.path for change in alice.diff() if change.kind == "M"], alice.overlays())
    alice.overlay_add(Path("layer"), create=True)
    alice.overlay_del("layer")
    night: Template = lab.template("night").save(may_exist=True).load(fresh=True)
    night.unload(if_exists=True)
    lab.unload(if_exists=True)
    night.delete()
    print([each.name for each in lab.templates() if each.loaded])


def captures(lab: Lab) -> None:
    cap: Capture
    with lab.iface("alice-eth0").capture("icmp", path=Path("x.pcapng")) as cap:
        pass
    packets: list[Packet] = cap.packets()
    print(cap.path, [(p.time, p.time_ns, p.name, len(p.data)) for p in packets])
    with lab.bridge("lan0").capture() as one, lab.capture("tcp") as two:
        print(one.packets(), two.packets())


async def coroutines(lab: Lab, alice: Guest) -> None:
    await lab.astart(wait=None)
    await alice.astart(may_run=True)
    await alice.await_until(["true"], timeout=5)
    done: tuple[Completed[str], ...] = await asyncio.gather(alice.arun(["a"]), alice.arun(["b"]))
    print(done[0].stdout)


def whole(lab: Lab) -> None:
    print([g.state for g in lab.guests()], [i.carrier for i in lab.ifaces()])
    print([b.kind for b in lab.bridges()], lab.run(["ip", "link"], check=True).stdout)
    plan: list[str] = lab.apply(lab.dump(), prune=True, dry_run=True)
    lab.save(Path("lab.tar"), "alice", with_masters=True)
    print(plan, lab.command("guest", "list", "-q", timeout=5).stdout)
    lab.clear()
    lab.keep()
    lab.close()
    lab.destroy()
    lab.bridge("lan0").delete(if_exists=True)
    lab.iface("alice-eth0").delete()
    with Lab.restore("copy", "lab.tar", masters=["a=b"]) as copy:
        print(copy.directory)


def main() -> None:
    with Lab.create("lab", isolated=True, kernel="sid", master="busybox", may_exist=True) as lab:
        alice, bob = build(lab)
        try:
            life(lab, alice, bob)
            programs(alice)
            files(lab, alice)
            captures(lab)
            asyncio.run(coroutines(lab, alice))
        except CommandFailed as e:
            print(e.returncode, e.stdout, e.stderr)
        except TimedOut as e:
            print(e.stdout)
        except (Conflict, ExecFailed, NotFound, SessionEnded, Usage) as e:
            print(e.exit_code)
        except DummError as e:
            print(e.hint)
        whole(lab)


if __name__ == "__main__":
    main()
