"""The harness of the benchmarks, on toys: what is reported and how, never how fast."""

import itertools
import math
import os
import re
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
import torch

from benchmarks import generation, injection, measure, pages, training
from benchmarks.measure import Timing, compare, in_new_process, peak_bytes, take_turns
from benchmarks.report import Section, draw, number, page
from peft_lessons.models.decoder import DecoderConfig

LINUX = Path("/proc/self/clear_refs").exists()


def test_variants_take_turns_in_shuffled_rounds() -> None:
    calls: list[str] = []
    found = compare({name: partial(calls.append, name) for name in "abc"}, repeats=30, seconds=1e-9)
    timed = calls[3:]  # after one call of each that warms up
    rounds = [tuple(timed[start : start + 3]) for start in range(0, len(timed), 3)]
    assert len(rounds) == 30
    assert all(sorted(order) == ["a", "b", "c"] for order in rounds)
    assert len(set(rounds)) > 1
    assert [len(timing.rounds) for timing in found.values()] == [30] * 3


def test_one_thread_is_timed_by_its_own_processor_time() -> None:
    found = compare({"sleeps": lambda: time.sleep(0.01)}, repeats=3)
    assert found["sleeps"].seconds < 0.005


def test_disturbed_samples_do_not_count(monkeypatch) -> None:
    """Another process uses half a core in the third sample, then in all."""
    monkeypatch.setattr(measure, "_processor_seconds", lambda: next(readings))
    monkeypatch.setattr(measure.time, "process_time", lambda: 0.0)  # this process sleeps
    readings = itertools.chain.from_iterable((0.0, 0.05 if i == 2 else 0.0) for i in itertools.count())
    found = compare({"one": lambda: time.sleep(0.1)}, threads=2, repeats=4, seconds=0.1)["one"]
    assert [seconds is None for seconds in found.rounds] == [False, False, True, False, False]
    readings = itertools.cycle([0.0, 0.05])
    found = compare({"one": lambda: time.sleep(0.1)}, threads=2, repeats=2, seconds=0.1)["one"]
    assert found.rounds == (None,) * 4
    assert math.isnan(found.seconds)
    assert number(found.seconds) == "machine busy"


def engine(name: str, folder: Path) -> Callable[[], tuple[float, float]]:
    """Writes down each of its turns; says 0, 1, 2, … and its process's number."""
    turns = itertools.count()

    def turn() -> tuple[float, float]:
        with open(folder / "turns", "a", encoding="utf-8") as file:
            file.write(name)
        return float(next(turns)), float(os.getpid())

    return turn


@pytest.mark.slow
def test_engines_take_turns_in_processes_of_their_own(tmp_path: Path) -> None:
    found = take_turns({name: (engine, (name, tmp_path)) for name in "ab"}, repeats=3)
    turns = (tmp_path / "turns").read_text(encoding="utf-8")
    assert sorted(turns[:2]) == ["a", "b"], "the first turn warms up"
    rounds = len(turns) // 2 - 1
    assert 3 <= rounds <= 6
    assert all(sorted(turns[2 * i : 2 * i + 2]) == ["a", "b"] for i in range(1, rounds + 1))
    for counted, processes in found.values():
        assert len(counted.rounds) == rounds
        assert all(value in (None, float(i + 1)) for i, value in enumerate(counted.rounds))
        assert len(set(processes.rounds) - {None}) <= 1
    assert os.getpid() not in {value for _, processes in found.values() for value in processes.rounds}


def test_a_ratio_is_the_median_over_rounds() -> None:
    ours, peer = Timing((1.0, 2.0, 30.0, None, 5.0)), Timing((2.0, 4.0, 60.0, 7.0, None))
    assert ours / peer == 0.5  # the ratio of the medians would be 0.64
    assert math.isnan(Timing((1.0, None, None)) / Timing((2.0, 3.0, 4.0)))


def occupy(megabytes: int, kept: bool):
    """A step that occupies memory once more than what is kept, in 8-byte numbers that are written to."""
    held = torch.ones(megabytes * 125_000, dtype=torch.float64) if kept else None
    torch.ones(10 * megabytes * 125_000, dtype=torch.float64)  # gone before the step

    def step() -> object:
        return torch.ones(megabytes * 125_000, dtype=torch.float64).sum() + (0 if held is None else held[0])

    return step


@pytest.mark.slow
@pytest.mark.skipif(not LINUX, reason="the peak can be counted anew on Linux alone")
@pytest.mark.parametrize(("kept", "expected"), [(False, 100e6), (True, 200e6)])
def test_peak_memory(kept: bool, expected: float) -> None:
    assert peak_bytes(occupy, 100, kept) == pytest.approx(expected, abs=25e6)


def test_a_new_process_is_another() -> None:
    assert in_new_process(os.getpid) != os.getpid()


def test_the_report(tmp_path: Path) -> None:
    rows = (("a", number(0.5)), ("b", number(math.nan)))
    sections = [Section("Title", "Text.", ("what", "ratio"), rows, (("label", 0.5), ("lost", math.nan)))]
    text = page(sections, "peer 1.0")
    assert "## Title\n\nText.\n\n| what | ratio |\n|---|---|\n| a | 0.50 |\n| b | machine busy |" in text
    assert torch.__version__ in text
    draw(sections, tmp_path / "figure.svg")
    drawn = (tmp_path / "figure.svg").read_text(encoding="utf-8")
    assert ElementTree.fromstring(drawn).tag.endswith("svg")
    assert "label" in drawn
    assert "lost" not in drawn  # what was not measured has no bar


def bar_lengths(path: Path) -> list[float]:
    """The width of each bar in a figure by `draw`."""
    lengths = []
    for part in ElementTree.parse(path).iter():
        if part.get("style") in ("fill: #2a7f62", "fill: #b5543a"):
            xs = [float(x) for x in re.findall(r"[ML] (-?[\d.]+) ", part.get("d", ""))]
            lengths.append(max(xs) - min(xs))
    return lengths


def test_half_and_twice_are_equally_far_from_one(tmp_path: Path) -> None:
    ratios = (("a", 0.5), ("b", 2.0), ("c", 4.0), ("d", 1 / 8))
    draw([Section("", "", (), (), ratios)], tmp_path / "figure.svg")
    half, twice, four_times, eighth = bar_lengths(tmp_path / "figure.svg")
    assert half == pytest.approx(twice, rel=1e-3)
    assert four_times == pytest.approx(2 * twice, rel=1e-3)
    assert eighth == pytest.approx(3 * twice, rel=1e-3)


TINY = DecoderConfig(
    vocab_size=50,
    hidden_size=16,
    intermediate_size=24,
    num_hidden_layers=2,
    num_attention_heads=2,
    num_key_value_heads=2,
)


def test_the_section_on_a_layer() -> None:
    pytest.importorskip("loralib", reason="loralib is an extra of its own; to run it: make setup-bench test")
    from benchmarks import lora

    found = lora.section(cases=((4, 8, 8, 2, 1),), repeats=3)
    assert [row[0] for row in found.rows] == list(lora.PASSES)
    assert all(len(row) == len(found.columns) for row in found.rows)


def test_the_section_on_files() -> None:
    found = injection.section(shape=TINY, repeats=3)
    assert len(found.rows) == 3
    assert all(ratio > 0 for _, ratio in found.ratios)


@pytest.mark.slow
def test_both_sides_of_a_training_step_have_one_loss() -> None:
    for prompt in (0, training.PROMPT):
        case = ("q, v", "fp32", prompt)
        losses = [make(*case)[1]().item() for make in (training.our_loss, training.peer_loss)]
        assert losses[0] == pytest.approx(losses[1], rel=1e-6)


@pytest.mark.slow
def test_both_sides_generate_the_same() -> None:
    model, _ = training.load_smollm2()
    ids = torch.randint(49152, (2, 8), generator=torch.Generator().manual_seed(0))
    theirs = generation.theirs(training.in_transformers(model).eval(), ids, 4)()
    assert torch.equal(generation.ours(model, ids, 4)(), theirs[:, 8:])


def test_what_a_page_says_is_read_by_its_moments() -> None:
    """A step is from one to the next; letters are drawn with care only once all is learnt."""
    said = [
        ("drawn", 100),
        ("step", 300),
        ("step", 500),
        ("letters", 600),
        ("step", 900),
        ("done", 1000),
        ("drawn", 1700),
    ]
    heard = [{"what": what, "at": at} for what, at in said]
    assert pages.heard_at(heard, "step") == 0.3 and pages.heard_at(heard, "letters") == 0.6
    assert pages.heard_at(heard, "drawn") == 1.7
    what, step, here, peer, ratio = pages.step_of("page", "a thing", [(heard, 0.1)])
    assert (what, step, here, peer, ratio) == ("page", "a step of a thing", "300 ms", "100 ms", "3.00")
    texts = [{"what": "text", "tokens": 10, "ms": 500, "at": 1}, {"what": "text", "tokens": 60, "ms": 200, "at": 2}]
    assert pages.tokens_per_second(texts) == 300


def test_a_step_in_torch_is_from_one_batch_to_the_next() -> None:
    def training(batches: Iterator[float]) -> None:
        for seconds in batches:
            time.sleep(seconds)

    assert 0.02 <= pages.step_in_torch(iter([0.02] * 5), training) < 0.5
