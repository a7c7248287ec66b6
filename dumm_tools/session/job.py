"""A request under way."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from typing import Any

from dumm_tools.agent.steps import Wants
from dumm_tools.errors import DummError, os_reason
from dumm_tools.session.answers import Answers, Failure, Output
from dumm_tools.session.requests import Run
from dumm_tools.session.streams import Inlet


class Job:
    """Runs a request until it has a status. The loop polls for what it `wants`, or until its time,
    and calls `step`."""

    def __init__(
        self, run: Run, answers: Answers, inlet: Inlet | None, out: Output, err: Output
    ) -> None:
        self.run, self.answers, self.inlet = run, answers, inlet
        self.out, self.err = out, err
        self.begun = time.monotonic()
        self.deadline = math.inf if run.timeout is None else self.begun + run.timeout
        self.status: int | None = None
        self.failures: list[Failure] = []
        self._passed_on = 0

    # ---- for the loop ----

    def wants(self) -> Wants:
        """The events to poll for."""
        own = self._wants()
        return {**own, **self.inlet.wants()} if self.inlet is not None else own

    def until(self) -> float:
        """When to call `step` if there are no events (time.monotonic)."""
        return self.deadline

    def step(self, events: Wants) -> None:
        """Go on after a poll. At the end, `status` is set."""
        try:
            if self.inlet is not None:
                self.feed_on()
            self._step(events)
        except DummError as e:
            self._fail(e)
        except OSError as e:  # too many open files, for example
            self._fail(DummError(os_reason(e)))

    def signal(self, number: int) -> None:
        """Pass a signal on."""
        raise NotImplementedError

    def put(self, data: bytes | None) -> None:
        """Take more input. DummError."""
        if self.inlet is None:
            raise DummError("its input is not a stream")
        self.inlet.put(data)
        self.feed_on()

    def feed_on(self) -> None:
        """Pass input on, and say when all of it has been."""
        assert self.inlet is not None
        self.inlet.write()
        if self.inlet.is_empty and self.inlet.count > self._passed_on:
            self._passed_on = self.inlet.count
            self.answers.put({"id": self.run.id, "taken": self._passed_on})

    def close(self) -> None:
        """Release everything, and end what still runs."""
        if self.inlet is not None:
            self.inlet.close()

    def answer(self) -> dict[str, Any]:
        """The last answer."""
        return ended(
            self.run,
            self.status or 0,
            time.monotonic() - self.begun,
            self.failures,
            (self.out, self.err),
        )

    # ---- for the kinds of jobs ----

    def _wants(self) -> Wants:
        raise NotImplementedError

    def _step(self, events: Wants) -> None:
        raise NotImplementedError

    def _fail(self, error: DummError) -> None:
        """End with an error of ours."""
        raise NotImplementedError


def ended(
    run: Run, status: int, seconds: float, failures: Sequence[Failure], outputs: Sequence[Output]
) -> dict[str, Any]:
    """The last answer to a request."""
    answer: dict[str, Any] = {"id": run.id, "status": status, "seconds": round(seconds, 6)}
    for output in outputs:
        answer |= output.end()
    if failures:
        answer["errors"] = [failure._asdict() for failure in failures]
    return answer
