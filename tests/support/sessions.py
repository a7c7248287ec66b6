"""A client of a framed session, `dumm-console --json`."""

from __future__ import annotations

import json
import os
import select
import subprocess
import time
from typing import Any

from support import PATIENCE
from support.labs import Lab

Answer = dict[str, Any]


class Session:
    """A session in a lab's directory, as a program in any language would use it."""

    def __init__(self, lab: Lab, process: subprocess.Popen[bytes] | None = None) -> None:
        self.process = process or lab.start(["dumm-console", "--json"])
        self._text = bytearray()
        self._last = 0

    def send(self, request: Answer | bytes) -> None:
        """Write a line."""
        line = request if isinstance(request, bytes) else json.dumps(request).encode()
        assert self.process.stdin is not None
        self.process.stdin.write(line + b"\n")
        self.process.stdin.flush()

    def begin(self, words: str | list[str], **options: Any) -> int:
        """Send a request; return its id."""
        self._last += 1
        words = words.split() if isinstance(words, str) else words
        self.send({"id": self._last, "run": words, **options})
        return self._last

    def next(self) -> Answer:
        """The next line."""
        assert self.process.stdout is not None
        end = time.monotonic() + PATIENCE
        fd = self.process.stdout.fileno()
        while b"\n" not in self._text:
            assert select.select([fd], [], [], end - time.monotonic())[0], "no answer"
            piece = os.read(fd, 1 << 20)
            assert piece, (bytes(self._text), self.process.communicate())
            self._text += piece
        line, _, self._text = self._text.partition(b"\n")
        found: Answer = json.loads(bytes(line))
        return found

    def until(self, request: int | str | None, key: str = "status") -> Answer:
        """The next answer to a request that has a key; others are dropped."""
        while True:
            answer = self.next()
            if answer["id"] == request and key in answer:
                return answer

    def run(self, words: str | list[str], *, status: int = 0, **options: Any) -> Answer:
        """Run a command to its end."""
        answer = self.until(self.begin(words, **options))
        assert answer["status"] == status, answer
        return answer

    def refused(self, request: Answer | bytes) -> str:
        """The error for a line that is not a request."""
        self.send(request)
        answer = self.next()
        assert answer["status"] == 2, answer
        assert set(answer) == {"id", "status", "error"}
        return str(answer["error"])

    def end(self) -> int:
        """Close its standard input; its exit status."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.stdin = None
        _, err = self.process.communicate(timeout=PATIENCE)
        assert err == b""
        return self.process.returncode

    @property
    def descriptors(self) -> int:
        """How many it has open."""
        return len(os.listdir(f"/proc/{self.process.pid}/fd"))
