"""Programs of the host and commands of the suite, for a lab."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, overload

from dumm_tools.api import answers, execution, words
from dumm_tools.api.answers import Answer, Completed
from dumm_tools.api.opened import Opened
from dumm_tools.api.words import Path


class Commands(Opened):
    """The part of a lab that runs them."""

    @overload
    def run(
        self,
        command: Sequence[str],
        *,
        input: str | bytes | None = None,
        stdin: Path | None = None,
        stdout: Path | None = None,
        stderr: Path | None = None,
        text: Literal[True] = True,
        check: bool = False,
        timeout: float | None = None,
    ) -> Completed[str]: ...

    @overload
    def run(
        self,
        command: Sequence[str],
        *,
        input: str | bytes | None = None,
        stdin: Path | None = None,
        stdout: Path | None = None,
        stderr: Path | None = None,
        text: Literal[False],
        check: bool = False,
        timeout: float | None = None,
    ) -> Completed[bytes]: ...

    def run(
        self,
        command: Sequence[str],
        *,
        input: str | bytes | None = None,
        stdin: Path | None = None,
        stdout: Path | None = None,
        stderr: Path | None = None,
        text: bool = True,
        check: bool = False,
        timeout: float | None = None,
    ) -> Completed[Any]:
        """Run a program of the host in the lab's namespaces, where ip and bridge see its links;
        arguments as for `Guest.run`. ExecFailed if it cannot be run; TimedOut; CommandFailed with
        `check`."""
        given = words.words("the command", command)
        answer = self._called(
            ["guest", "exec", "--host", "--", *given], input, stdin, stdout, stderr, timeout
        )
        done = answers.outcome(answer, text=text)
        return answers.checked(done, "host", given) if check else done

    def command(
        self,
        *call: str,
        input: str | bytes | None = None,
        stdin: Path | None = None,
        stdout: Path | None = None,
        stderr: Path | None = None,
        timeout: float | None = None,
        check: bool = True,
    ) -> Completed[str]:
        """Run any other command, in the words of a dumm-console prompt; arguments as for
        `Guest.run`. Its own error, unless `check` is False.

        >>> lab.command("guest", "list", "-q").stdout.split()
        ['alice', 'bob']
        """
        answer = self._called(call, input, stdin, stdout, stderr, timeout)
        error = answers.failure(answer)
        if error is not None and check:
            raise error
        return answers.outcome(answer._replace(faults=[]), text=True)

    def _called(
        self,
        call: Sequence[str],
        data: str | bytes | None,
        stdin: Path | None,
        stdout: Path | None,
        stderr: Path | None,
        timeout: float | None,
    ) -> Answer:
        with execution.given_input(data, stdin) as source:
            more = execution.to_files(stdout, stderr) | source
            if timeout is not None:
                more["timeout"] = timeout
            return self._channel.begin(call, **more).wait()
