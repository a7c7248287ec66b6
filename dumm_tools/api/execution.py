"""Programs in a guest."""

from __future__ import annotations

import asyncio
import contextlib
import os
import tempfile
from collections.abc import Iterator, Sequence
from typing import Any, Literal, overload

from dumm_tools.api import answers, words
from dumm_tools.api.answers import Answer, Completed
from dumm_tools.api.part import Part
from dumm_tools.api.program import Program
from dumm_tools.api.running import Running
from dumm_tools.api.streams import Output
from dumm_tools.api.words import Path

Command = Sequence[str | os.PathLike[str]]
#: Bytes of input that are sent in the request; more goes through a temporary file.
_IN_REQUEST = 1 << 18


class Programs(Part):
    """The part of a guest that runs programs."""

    @overload
    def run(
        self,
        command: Command,
        *,
        input: str | bytes | None = None,
        stdin: Path | None = None,
        stdout: Path | None = None,
        stderr: Path | None = None,
        text: Literal[True] = True,
        check: bool = False,
        env: dict[str, str] | None = None,
        cwd: str | None = None,
        user: str | None = None,
        timeout: float | None = None,
    ) -> Completed[str]: ...

    @overload
    def run(
        self,
        command: Command,
        *,
        input: str | bytes | None = None,
        stdin: Path | None = None,
        stdout: Path | None = None,
        stderr: Path | None = None,
        text: Literal[False],
        check: bool = False,
        env: dict[str, str] | None = None,
        cwd: str | None = None,
        user: str | None = None,
        timeout: float | None = None,
    ) -> Completed[bytes]: ...

    def run(
        self,
        command: Command,
        *,
        input: str | bytes | None = None,
        stdin: Path | None = None,
        stdout: Path | None = None,
        stderr: Path | None = None,
        text: bool = True,
        check: bool = False,
        env: dict[str, str] | None = None,
        cwd: str | None = None,
        user: str | None = None,
        timeout: float | None = None,
    ) -> Completed[Any]:
        """Run a program in the guest to its end, as `dumm-guest exec`; no shell is involved.

        `input` is its standard input, or `stdin` a file with it (default: none). `stdout` and
        `stderr` are files on the host to write its outputs to, of any size; otherwise they are in
        the result: str, or bytes with `text=False`. `env` is added to its environment; `cwd`
        (default: /) is its directory, `user` (default: root) its user, USER or USER:GROUP.

        TimedOut after `timeout` seconds: the program is ended, and the error has its `stdout` and
        `stderr`. ExecFailed if it could not be run (code 126, 127), or the guest does not run or
        ends meanwhile (125). With `check`, CommandFailed if it ends with a status other than 0.

        >>> alice.run(["hostname"]).stdout
        'alice\\n'
        >>> alice.run(["sort"], input="b\\na\\n", timeout=30, check=True).stdout
        'a\\nb\\n'
        >>> alice.run(["sh", "-c", "exit 3"]).returncode
        3
        """
        given = words.words("the command", command)
        with given_input(input, stdin) as source:
            more = to_files(stdout, stderr) | source
            running = self._exec(given, env, cwd, user, timeout, "KILL", **more)
            return self._outcome(given, running.wait(), text=text, check=check)

    async def arun(
        self,
        command: Command,
        *,
        input: str | bytes | None = None,
        stdin: Path | None = None,
        stdout: Path | None = None,
        stderr: Path | None = None,
        check: bool = False,
        env: dict[str, str] | None = None,
        cwd: str | None = None,
        user: str | None = None,
        timeout: float | None = None,
    ) -> Completed[str]:
        """`run` for asyncio. If the task is cancelled, the program is killed.

        >>> import asyncio
        >>> async def both():
        ...     return await asyncio.gather(alice.arun(["hostname"]), bob.arun(["hostname"]))
        >>> [done.stdout for done in asyncio.run(both())]
        ['alice\\n', 'bob\\n']
        """
        given = words.words("the command", command)
        with given_input(input, stdin) as source:
            more = to_files(stdout, stderr) | source
            running = self._exec(given, env, cwd, user, timeout, "KILL", **more)
            answer = await asyncio.wrap_future(running.future)
            done: Completed[str] = self._outcome(given, answer, text=True, check=check)
            return done

    @overload
    def popen(
        self,
        command: Command,
        *,
        stdin: Path | None = None,
        stdout: Path | None = None,
        stderr: Path | None = None,
        text: Literal[True] = True,
        env: dict[str, str] | None = None,
        cwd: str | None = None,
        user: str | None = None,
        timeout: float | None = None,
    ) -> Program[str]: ...

    @overload
    def popen(
        self,
        command: Command,
        *,
        stdin: Path | None = None,
        stdout: Path | None = None,
        stderr: Path | None = None,
        text: Literal[False],
        env: dict[str, str] | None = None,
        cwd: str | None = None,
        user: str | None = None,
        timeout: float | None = None,
    ) -> Program[bytes]: ...

    def popen(
        self,
        command: Command,
        *,
        stdin: Path | None = None,
        stdout: Path | None = None,
        stderr: Path | None = None,
        text: bool = True,
        env: dict[str, str] | None = None,
        cwd: str | None = None,
        user: str | None = None,
        timeout: float | None = None,
    ) -> Program[Any]:
        """Start a program in the guest, with streams; arguments as for `run`. Errors of the start
        are raised by the methods of the program.

        >>> with alice.popen(["ping", "10.0.0.2"]) as ping:
        ...     "10.0.0.2" in ping.stdout.readline()
        True
        """
        given = words.words("the command", command)
        out: Output[Any] = Output(text=text)
        err: Output[Any] = Output(text=text)
        more = to_files(stdout, stderr)
        sinks = {}
        for name, output in (("stdout", out), ("stderr", err)):
            if name in more:
                output.feed(b"")
            else:
                sinks[name] = output.feed
        more["stdin"] = {"stream": True} if stdin is None else {"file": words.local(stdin)}
        running = self._exec(given, env, cwd, user, timeout, "TERM", sinks=sinks, **more)
        return Program(running, self, given, out, err)

    def _exec(
        self,
        command: list[str],
        env: dict[str, str] | None,
        cwd: str | None,
        user: str | None,
        timeout: float | None,
        signal_at_end: str,
        **more: Any,
    ) -> Running:
        """Start `exec` with this command."""
        options = words.options(env=words.pairs(env), workdir=cwd, user=user)
        if timeout is not None:
            more["timeout"] = timeout
        full = ["guest", "exec", *options, self.name, "--", *command]
        return self._channel.begin(full, signal_at_end=signal_at_end, **more)

    def _outcome(
        self, command: list[str], answer: Answer, *, text: bool, check: bool
    ) -> Completed[Any]:
        done = answers.outcome(answer, text=text)
        return answers.checked(done, f"guest '{self.name}'", command) if check else done


def to_files(stdout: Path | None, stderr: Path | None) -> dict[str, Any]:
    """The files for outputs, as parts of a request."""
    given = {"stdout": stdout, "stderr": stderr}
    return {
        stream: {"file": words.local(path)} for stream, path in given.items() if path is not None
    }


@contextlib.contextmanager
def given_input(data: str | bytes | None, file: Path | None) -> Iterator[dict[str, Any]]:
    """The standard input as part of a request."""
    if file is not None:
        yield {"stdin": {"file": words.local(file)}}
    elif not data:
        yield {}
    elif isinstance(data, str) and len(data) <= _IN_REQUEST:
        yield {"stdin": {"text": data}}
    else:
        raw = data.encode() if isinstance(data, str) else data
        if len(raw) <= _IN_REQUEST:
            import base64

            yield {"stdin": {"base64": base64.b64encode(raw).decode()}}
            return
        with tempfile.NamedTemporaryFile(prefix="dumm-input-") as spool:
            spool.write(raw)
            spool.flush()
            yield {"stdin": {"file": spool.name}}
