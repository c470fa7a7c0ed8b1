"""Put off Ctrl+C and SIGTERM until what has to be whole is whole."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any


class Interrupts:
    """A context in which `signals` wait: for the next `here()`, for `at_once()`, or for the context's end.

    Each then does what it did before the context: Ctrl+C raises KeyboardInterrupt. So does SIGTERM, which otherwise
    would end the process, unless it waited for the context's end. A second Ctrl+C does not wait.

    Python hands signals to its main thread alone; in another thread the context does nothing.

    >>> with Interrupts(signal.SIGINT) as interrupts:
    ...     signal.raise_signal(signal.SIGINT)
    ...     print("this is done first")
    ...     try:
    ...         interrupts.here()
    ...     except KeyboardInterrupt:
    ...         print("then comes the interrupt")
    this is done first
    then comes the interrupt
    """

    def __init__(self, *signals: int) -> None:
        self.signals = signals
        self.before: dict[int, Any] = {}
        self.waiting: list[int] = []
        self.waits = True

    def __enter__(self) -> "Interrupts":
        if threading.current_thread() is threading.main_thread():
            # A handler that was not set from Python (None) cannot be put back, so it stays.
            found = {number: signal.getsignal(number) for number in self.signals}
            self.before = {number: handler for number, handler in found.items() if handler is not None}
            for number in self.before:
                signal.signal(number, self._handle)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)
        for number in self.waiting:
            signal.raise_signal(number)

    def here(self) -> None:
        """Let a signal that waits interrupt."""
        if self.waiting:
            number = self.waiting[0]
            self.waiting.clear()
            self._interrupt(number, None)

    @contextmanager
    def at_once(self) -> Iterator[None]:
        """Let no signal wait inside this context."""
        self.waits = False
        try:
            self.here()
            yield
        finally:
            self.waits = True

    def _handle(self, number: int, frame: FrameType | None) -> None:
        impatient = number == signal.SIGINT and number in self.waiting
        if self.waits and not impatient:
            self.waiting.append(number)
        else:
            self.waiting.clear()
            self._interrupt(number, frame)

    def _interrupt(self, number: int, frame: FrameType | None) -> None:
        handler: Callable[[int, FrameType | None], Any] | int = self.before[number]
        if callable(handler):
            handler(number, frame)
        elif handler == signal.SIG_DFL:
            raise KeyboardInterrupt
