"""A connection of Ansible to guests of dumm-tools, which need no network, sshd, user or key."""

from __future__ import annotations

import subprocess

from ansible.errors import AnsibleConnectionFailure, AnsibleError
from ansible.plugins.connection import ConnectionBase

DOCUMENTATION = """
name: dumm
short_description: Run tasks in guests of dumm-tools
description:
  - Runs commands by C(dumm-guest exec), and copies files by C(dumm-fs cp).
  - The modules C(raw) and C(script) with a shell script need only a shell in the guest. Most others
    need Python there.
options:
  guest:
    description: Name of the guest.
    default: inventory_hostname
    vars:
      - name: inventory_hostname
      - name: ansible_host
  directory:
    description: Working directory of the lab.
    default: ""
    vars:
      - name: dumm_directory
    env:
      - name: DUMM_DIR
  remote_user:
    description: User of the guest, if not root.
    default: ""
    vars:
      - name: ansible_user
"""


class Connection(ConnectionBase):
    """A guest."""

    transport = "dumm"
    has_pipelining = True

    def _connect(self):
        self._connected = True
        return self

    def close(self):
        self._connected = False

    def _command(self, tool, *words):
        directory = self.get_option("directory")
        return [tool, *(["-C", directory] if directory else []), *words]

    def exec_command(self, cmd, in_data=None, sudoable=True):
        super().exec_command(cmd, in_data=in_data, sudoable=sudoable)
        user = self.get_option("remote_user")
        argv = self._command("dumm-guest", "exec", *(["-u", user] if user else []))
        argv += [self.get_option("guest"), "--", "/bin/sh", "-c", cmd]
        done = subprocess.run(argv, input=in_data or b"", capture_output=True)
        if done.returncode == 125:  # dumm-guest itself has failed
            raise AnsibleConnectionFailure(done.stderr.decode(errors="replace").strip())
        return done.returncode, done.stdout, done.stderr

    def put_file(self, in_path, out_path):
        super().put_file(in_path, out_path)
        self._copy(in_path, f"{self.get_option('guest')}:{out_path}")

    def fetch_file(self, in_path, out_path):
        super().fetch_file(in_path, out_path)
        self._copy(f"{self.get_option('guest')}:{in_path}", out_path)

    def _copy(self, source, target):
        argv = self._command("dumm-fs", "cp", source, target)
        done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True)
        if done.returncode:
            raise AnsibleError(done.stderr.decode(errors="replace").strip())
