"""Times of several ways to do one thing, and the peak memory of one of them.

The ways take turns in one process, in an order that is shuffled in each round, so that a slow moment of the machine
meets all of them alike. One thread is timed by its own processor time. Several threads are timed by the wall clock, and
a sample counts only if other processes used less than a twentieth of a core meanwhile: a ratio of wall times beside a
competitor says nothing.
"""

import multiprocessing
import random
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import psutil
import torch

Result = TypeVar("Result")

ENOUGH = 3  # samples below which there is no median
PAUSE = 0.1  # seconds in which the threads of the process before go to sleep
QUIET = 0.05  # processor seconds that others may use in one second of a sample of several threads


@dataclass(frozen=True)
class Timing:
    """Seconds of one call in each round; None where the sample does not count."""

    rounds: tuple[float | None, ...]

    @property
    def seconds(self) -> float:
        return _median([seconds for seconds in self.rounds if seconds is not None])

    def __truediv__(self, peer: "Timing") -> float:
        """The share of the peer's time, the median over the rounds: a slow minute is slow for both."""
        pairs = zip(self.rounds, peer.rounds, strict=True)
        return _median([mine / theirs for mine, theirs in pairs if mine is not None and theirs is not None])


def _median(values: Sequence[float]) -> float:
    """NaN when fewer than ENOUGH are given."""
    return statistics.median(values) if len(values) >= ENOUGH else float("nan")


def compare(
    variants: Mapping[str, Callable[[], object]], threads: int = 1, repeats: int = 20, seconds: float | None = None
) -> dict[str, Timing]:
    """Time each of `variants` in `repeats` rounds; in up to twice as many where others disturb.

    A sample is as many calls as last `seconds`: by default 10 ms for one thread, and for several 250 ms, since the
    kernel counts the time of other processes in ticks of 10 ms.
    """
    seconds = seconds or (0.01 if threads == 1 else 0.25)
    rounds: list[dict[str, float | None]] = []
    with torch_threads(threads):
        calls = {name: _calls(variant, seconds) for name, variant in variants.items()}
        order, undisturbed = list(variants), 0
        while undisturbed < repeats and len(rounds) < 2 * repeats:
            random.shuffle(order)
            rounds.append({name: _sample(variants[name], calls[name], threads) for name in order})
            undisturbed += all(sample is not None for sample in rounds[-1].values())
    return {name: Timing(tuple(found[name] for found in rounds)) for name in variants}


@contextmanager
def torch_threads(threads: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _calls(variant: Callable[[], object], seconds: float) -> int:
    """How many calls last `seconds`, by a first call that warms up and, if it was short, a second."""
    for _ in range(2):
        started = time.perf_counter()
        variant()
        needed = round(seconds / (time.perf_counter() - started))
        if needed <= 1:
            return 1
    return needed


def _sample(variant: Callable[[], object], calls: int, threads: int) -> float | None:
    """Seconds of one call, or None when others disturbed."""
    clock = time.thread_time if threads == 1 else time.perf_counter
    started, others = clock(), _others()
    for _ in range(calls):
        variant()
    elapsed = clock() - started
    return None if threads > 1 and others() > QUIET * elapsed else elapsed / calls


def _others() -> Callable[[], float]:
    """A clock that starts now, of the processor seconds that other processes use."""
    own, everyone = time.process_time(), _processor_seconds()
    return lambda: (_processor_seconds() - everyone) - (time.process_time() - own)


def _processor_seconds() -> float:
    """Time that all processors have worked for any process of this machine since it started."""
    spent = psutil.cpu_times()._asdict()
    # guests' time is in their host's already; stolen time, which a host gives to other machines, was no work here
    elsewhere = {"idle", "iowait", "steal", "guest", "guest_nice"}
    return sum(value for name, value in spent.items() if name not in elsewhere)


def take_turns(
    engines: Mapping[str, tuple[Callable[..., Callable[[], Sequence[float]]], Sequence[Any]]], repeats: int
) -> dict[str, tuple[Timing, ...]]:
    """What engines say of their own speed, each in a process of its own, where threads of one meet none of another.

    An engine is a function and its arguments; it is called once in that process, and returns what is called in each of
    `repeats` rounds, and in up to twice as many where others disturb. Returns a timing for each number of a sample.
    """
    rounds: list[dict[str, Sequence[float] | None]] = []
    with ExitStack() as stack:
        pools = {
            name: stack.enter_context(
                ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), _start, (make, arguments))
            )
            for name, (make, arguments) in engines.items()
        }
        counts = {name: len(pool.submit(_turn).result()[0]) for name, pool in pools.items()}  # warms up
        order, quiet = list(pools), 0
        while quiet < repeats and len(rounds) < 2 * repeats:
            random.shuffle(order)
            samples = {name: pools[name].submit(_turn).result() for name in order}
            rounds.append({name: None if disturbed else found for name, (found, disturbed) in samples.items()})
            quiet += all(sample is not None for sample in rounds[-1].values())
    return {
        name: tuple(Timing(tuple(r[name] and r[name][i] for r in rounds)) for i in range(count))  # type: ignore[index]
        for name, count in counts.items()
    }


_engine: Callable[[], Sequence[float]]


def _start(make: Callable[..., Callable[[], Sequence[float]]], arguments: Sequence[Any]) -> None:
    global _engine
    _engine = make(*arguments)


def _turn() -> tuple[Sequence[float], bool]:
    """What this process's engine says, and whether others disturbed it."""
    time.sleep(PAUSE)
    started, others = time.perf_counter(), _others()
    found = _engine()
    return found, others() > QUIET * (time.perf_counter() - started)


def in_new_process(function: Callable[..., Result], *arguments: Any) -> Result:
    """`function(*arguments)`, run in a fresh process, where nothing is warm and no memory is in use."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def peak_bytes(prepare: Callable[..., Callable[[], object]], *arguments: Any, calls: int = 2) -> float:
    """The most memory that `calls` calls of `prepare(*arguments)` occupy in a fresh process, with what it prepares.

    What the module of `prepare` imports is not counted, nor what was needed only while preparing. NaN outside Linux.
    """
    return in_new_process(_peak_bytes, prepare, arguments, calls)


def _peak_bytes(prepare: Callable[..., Callable[[], object]], arguments: tuple[Any, ...], calls: int) -> float:
    reset = Path("/proc/self/clear_refs")
    if not reset.exists():
        return float("nan")
    before = psutil.Process().memory_info().rss
    step = prepare(*arguments)
    reset.write_text("5")  # the peak is counted anew from here
    for _ in range(calls):
        step()
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return float(status.split("VmHWM:")[1].split()[0]) * 1024 - before
