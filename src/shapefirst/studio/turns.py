"""One job at a time, in a queue with places. All that computes runs in one thread: no two touch a pipeline at once.

A job breathes between its steps. There it ends if it was cancelled, or if nobody has asked after it for a while, and
short errands (a picture of an earlier run that somebody wants to see) are done in between.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from threading import Condition, Thread
from typing import Any, Final, Literal, TypeAlias, TypeVar

from shapefirst.errors import ShapefirstError, first_line, sentence_of

__all__ = ["Cancelled", "State", "Ticket", "Turns"]

Value = TypeVar("Value")
State: TypeAlias = Literal["waiting", "running", "done", "failed", "cancelled"]

MOST: Final = 16  # jobs that wait
CLOSING: Final = 30.0  # seconds that a step may still take when the studio ends
PATIENCE: Final = 60.0  # seconds without a look at a job before it is given up


class Cancelled(Exception):
    """A job was told to stop."""


class Ticket:
    """A place in the queue, and what has become of the job.

    Attributes:
        owner: Whose job it is.
        state: How far it is.
        news: What it last told.
        result: What it gave, once it is done.
        sentence: Why it failed.
        version: Counts up with each change.
    """

    def __init__(self, turns: Turns, owner: str, work: Callable[[Ticket], Any], patience: float) -> None:
        self.owner, self.work = owner, work
        self.state: State = "waiting"
        self.news: Any = None
        self.result: Any = None
        self.sentence = ""
        self.version = 0
        self._turns, self._patience = turns, patience
        self._cancelled = False
        self.look()

    @property
    def is_over(self) -> bool:
        return self.state in ("done", "failed", "cancelled")

    @property
    def place(self) -> int:
        """How many jobs go before it."""
        return self._turns.place(self)

    def look(self) -> None:
        """Somebody waits for it."""
        self._seen = time.monotonic()

    def cancel(self) -> None:
        """It stops where it next breathes, or never begins."""
        self._cancelled = True
        self._turns.drop(self)

    def tell(self, news: Any) -> None:
        """Called by the job."""
        self.news = news
        self.version += 1

    def breathe(self) -> None:
        """Called by the job between its steps.

        Raises:
            Cancelled: It is to stop.
        """
        if self._cancelled or time.monotonic() - self._seen > self._patience:
            raise Cancelled
        self._turns.run_errands()

    def end(self, state: State, result: Any = None, sentence: str = "") -> None:
        self.result, self.sentence, self.state = result, sentence, state
        self.version += 1


class Turns:
    """The queue and its thread, which ends when it is closed."""

    def __init__(self, most: int = MOST, patience: float = PATIENCE) -> None:
        self._most, self._patience = most, patience
        self._waiting: deque[Ticket] = deque()
        self._errands: deque[tuple[Callable[[], Any], Future[Any]]] = deque()
        self._running: Ticket | None = None
        self._news = Condition()
        self._is_closed = False
        self._thread = Thread(target=self._serve, name="studio", daemon=True)
        self._thread.start()

    def submit(self, owner: str, work: Callable[[Ticket], Any]) -> Ticket:
        """Queue a job, which is given its ticket.

        Raises:
            ShapefirstError: Its owner has one in the queue, or too many wait.
        """
        with self._news:
            if any(ticket.owner == owner for ticket in (*self._waiting, self._running) if ticket is not None):
                raise ShapefirstError("A picture of this tab is in the making: wait for it, or cancel it.")
            if len(self._waiting) >= self._most:
                raise ShapefirstError(f"There are {self._most} jobs in the queue already: try again in a minute.")
            ticket = Ticket(self, owner, work, self._patience)
            self._waiting.append(ticket)
            self._news.notify()
            return ticket

    def errand(self, work: Callable[[], Value]) -> Future[Value]:
        """Something short, done before the next step of the job that runs."""
        future: Future[Value] = Future()
        with self._news:
            self._errands.append((work, future))
            self._news.notify()
        return future

    def place(self, ticket: Ticket) -> int:
        with self._news:
            if ticket not in self._waiting:
                return 0
            return self._waiting.index(ticket) + (self._running is not None)

    def drop(self, ticket: Ticket) -> None:
        """Take a job out of the queue if it has not begun."""
        with self._news:
            if ticket in self._waiting:
                self._waiting.remove(ticket)
                ticket.end("cancelled")

    def run_errands(self) -> None:
        while self._errands:
            work, future = self._errands.popleft()
            if not future.set_running_or_notify_cancel():
                continue
            try:
                future.set_result(work())
            except BaseException as error:
                future.set_exception(error)

    def close(self, seconds: float = CLOSING) -> None:
        """Cancel all jobs and wait for the end of the step that one is in: a process that ends in it would crash."""
        with self._news:
            self._is_closed = True
            tickets = [ticket for ticket in (*self._waiting, self._running) if ticket is not None]
            self._news.notify()
        for ticket in tickets:
            ticket.cancel()
        self._thread.join(seconds)

    def _serve(self) -> None:
        while True:
            with self._news:
                self._news.wait_for(lambda: self._waiting or self._errands or self._is_closed)
                if self._is_closed:
                    return
                self._running = self._waiting.popleft() if self._waiting else None
            self.run_errands()
            if self._running is not None:
                self._run(self._running)

    def _run(self, ticket: Ticket) -> None:
        try:
            ticket.breathe()
            ticket.state = "running"
            ticket.version += 1
            result = ticket.work(ticket)
        except Cancelled:
            ending: tuple[State, Any, str] = ("cancelled", None, "")
        except ShapefirstError as error:
            ending = ("failed", None, str(error))
        except BaseException as error:  # a machine that is out of memory, whatever a library comes upon: others wait
            ending = ("failed", None, sentence_of(f"This failed with {type(error).__name__}: {first_line(error)}."))  # type: ignore[arg-type]
        else:
            ending = ("done", result, "")
        with self._news:  # who sees it over may ask for the next one
            self._running = None
            ticket.end(*ending)
