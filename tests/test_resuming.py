"""Training that is stopped anywhere and goes on: nothing is lost, and nothing differs from a run that never stopped."""

import contextlib
import doctest
import json
import math
import os
import random
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors import safe_open
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from peft_lessons import (
    AdaLoRAConfig,
    LoRAConfig,
    QuantizedLinear,
    RankAllocator,
    files,
    inject,
    interrupts,
    lora_plus_groups,
    training,
    training_state,
)
from peft_lessons.interrupts import Interrupts
from peft_lessons.training import History, train, windows
from peft_lessons.training_state import files_in, fingerprint

VOCABULARY, STEPS = 11, 12
TEXT = [i * i % VOCABULARY for i in range(300)]


@pytest.fixture(autouse=True)
def keyboard_interrupts() -> Iterator[None]:
    """A shell's background job ignores Ctrl+C, and with it whatever runs these tests."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


class Small(nn.Module):
    """Draws random numbers in every way that a model may, and has buffers that training changes."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(VOCABULARY, 8)
        self.norm = nn.BatchNorm1d(8)
        self.hidden = nn.Linear(8, 8)
        self.head = nn.Linear(8, VOCABULARY)
        self.register_buffer("scale", torch.ones(()))

    def forward(self, input_ids: Tensor) -> Tensor:
        x = self.norm(self.embed(input_ids).transpose(1, 2)).transpose(1, 2)
        x = F.dropout(torch.tanh(self.hidden(x)), 0.1, self.training)
        if self.training:
            if self.scale == 1:  # set once, from the first batch
                self.scale.fill_(1 + x.std().item())
            x = x * self.scale * (1 + 0.01 * random.random()) * (1 + 0.01 * np.random.rand())
        return self.head(x)


def small() -> Small:
    torch.manual_seed(0)
    return Small()


def lora() -> tuple[nn.Module, dict[str, Any]]:
    return inject(small(), LoRAConfig(rank=3, dropout=0.2, targets=("hidden", "head"))), {}


def full() -> tuple[nn.Module, dict[str, Any]]:
    return small(), {"weight_decay": 0.1}


def bf16() -> tuple[nn.Module, dict[str, Any]]:
    return small().bfloat16(), {"accumulate": 2}


def lora_plus() -> tuple[nn.Module, dict[str, Any]]:
    model, _ = lora()
    return model, {"groups": lora_plus_groups(model, 0.02, ratio=4)}


def adalora() -> tuple[nn.Module, dict[str, Any]]:
    config = AdaLoRAConfig(
        rank=6, target_rank=2, total_steps=STEPS, warmup_steps=2, final_steps=2, targets=("hidden", "head")
    )
    model = inject(small(), config)
    allocator = RankAllocator(model)
    return model, {"after_step": lambda step: allocator.step(step)}


RUNS = [lora, full, bf16, lora_plus, adalora]


def noisy(model: nn.Module) -> float:
    """An evaluation that draws random numbers."""
    return next(model.parameters()).abs().sum().item() + torch.rand(()).item() + random.random()


def go(
    make: Callable[[], tuple[nn.Module, dict[str, Any]]], folder: Path | None = None, **settings: Any
) -> tuple[nn.Module, History]:
    random.seed(5)
    np.random.seed(5)
    model, own = make()
    options = {"steps": STEPS, "learning_rate": 0.02, "evaluate": noisy, "evaluate_every": 3, "bar": iter}
    batches = windows(TEXT, batch_size=3, length=6, seed=2)
    return model, train(model, batches, checkpoint=folder, **options | own | settings)


def outcome(model: nn.Module, history: History) -> tuple[dict[str, Tensor], list[float], list[tuple[int, float]]]:
    named = [*model.named_parameters(), *model.named_buffers()]
    return {name: tensor.detach().clone() for name, tensor in named}, history.losses, history.evaluations


def assert_same(found: tuple, expected: tuple) -> None:
    assert found[1:] == expected[1:]
    assert found[0].keys() == expected[0].keys()
    different = [name for name, tensor in expected[0].items() if not torch.equal(found[0][name], tensor)]
    assert not different


def at_rest(model: nn.Module) -> bool:
    return not any(module.training for module in model.modules()) and all(p.grad is None for p in model.parameters())


def pressing(number: int, at: int) -> Callable[[Any], Iterator[int]]:
    """A bar that sends this process a signal before a step."""

    def bar(steps: Any) -> Iterator[int]:
        for step in steps:
            if step == at:
                signal.raise_signal(number)
            yield step

    return bar


@pytest.mark.parametrize("stop", [0, 1, 7, STEPS - 1])
@pytest.mark.parametrize("make", RUNS)
def test_a_run_that_goes_on_equals_one_that_never_stopped(make, stop: int, tmp_path: Path) -> None:
    expected = outcome(*go(make))
    model, history = go(make, tmp_path, bar=pressing(signal.SIGINT, stop), checkpoint_every=5)
    due = stop % 3 == 0  # an evaluation, which is interrupted; otherwise the step that was begun is made
    assert history.interrupted and len(history.losses) == (stop if due else stop + 1)
    assert at_rest(model)
    resumed, history = go(make, tmp_path)
    assert not history.interrupted
    assert_same(outcome(resumed, history), expected)


def test_a_data_loader_goes_on(tmp_path: Path) -> None:
    """Its order comes from torch's global generator, as dropout does."""
    rows = torch.randint(VOCABULARY, (40, 6), generator=torch.Generator().manual_seed(0))

    def run(**settings: Any) -> tuple:
        model, _ = lora()
        loader = DataLoader(TensorDataset(rows, rows), batch_size=3, shuffle=True)
        random.seed(5)
        np.random.seed(5)
        return outcome(
            model, train(model, loader, steps=STEPS, learning_rate=0.02, bar=settings.pop("bar", iter), **settings)
        )

    expected = run()
    assert len(run(checkpoint=tmp_path, bar=pressing(signal.SIGINT, 7))[1]) == 8
    assert_same(run(checkpoint=tmp_path), expected)


def test_a_quantized_base_is_neither_stored_nor_confused(tmp_path: Path) -> None:
    def quantized(seed: int = 0) -> tuple[nn.Module, dict[str, Any]]:
        torch.manual_seed(seed)
        base = nn.Sequential(nn.Embedding(VOCABULARY, 64), nn.Linear(64, 64), nn.Linear(64, VOCABULARY))
        base[1] = QuantizedLinear.from_linear(base[1])
        return inject(base, LoRAConfig(rank=2, dropout=0.2, targets=("1",))), {}

    expected = outcome(*go(quantized))
    go(quantized, tmp_path, bar=pressing(signal.SIGINT, 4))
    with safe_open(files_in(tmp_path)[-1], "pt") as file:
        assert {name for name in file.keys() if name.startswith("model.")} == {"model.1.lora_A", "model.1.lora_B"}  # noqa: SIM118
    with pytest.raises(ValueError, match=r"1\.base_layer\.\w+ has other values"):
        go(lambda: quantized(seed=1), tmp_path)
    assert_same(outcome(*go(quantized, tmp_path)), expected)


@pytest.mark.parametrize(
    "dtype", [torch.float32, torch.bfloat16, torch.float64, torch.uint8, torch.bool, torch.complex64]
)
@pytest.mark.parametrize("shape", [(), (1,), (3, 5), (4, 8)])
def test_any_other_value_has_another_fingerprint(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    whole = torch.zeros(math.prod(shape) + 1).to(dtype)
    tensor = whole[1:].view(shape)  # its bytes may begin anywhere
    before = fingerprint(tensor)
    for index in range(tensor.numel()):
        tensor.view(-1)[index] = 1
        assert fingerprint(tensor) != before
        assert (
            fingerprint(tensor) == fingerprint(tensor.clone()) == fingerprint(nn.Parameter(tensor, requires_grad=False))
        )
        tensor.view(-1)[index] = 0
    assert fingerprint(tensor) == before == 0


def test_the_same_objects_go_on(tmp_path: Path) -> None:
    """As in a notebook whose cell is run again: the model is the one that was stopped."""
    expected = outcome(*go(full))
    model, own = full()
    for stop in (4, 7):
        assert go(lambda: (model, own), tmp_path, bar=pressing(signal.SIGINT, stop))[1].interrupted
    assert_same(outcome(*go(full, tmp_path)), expected)
    assert_same(outcome(*go(lambda: (model, own), tmp_path)), expected)


def test_what_an_allocator_measured_goes_on(tmp_path: Path) -> None:
    """One that came to the final steps with nothing measured would refuse them."""
    made = []

    def remembered() -> tuple[nn.Module, dict[str, Any]]:
        model, _ = adalora()
        made.append(RankAllocator(model))
        return model, {"after_step": made[-1].step}

    go(remembered)
    go(remembered, tmp_path, bar=pressing(signal.SIGINT, STEPS - 2))
    _, history = go(remembered, tmp_path)
    assert len(history.losses) == STEPS
    whole, _, resumed = made
    assert resumed.ranks == whole.ranks and sum(whole.ranks) < 12
    for mean in ("sensitivity", "uncertainty"):
        pairs = zip(getattr(resumed, mean).values(), getattr(whole, mean).values(), strict=True)
        assert all(torch.equal(mine, expected) and expected.any() for mine, expected in pairs)


def test_keeping_a_checkpoint_changes_nothing(tmp_path: Path) -> None:
    assert_same(outcome(*go(lora, tmp_path, checkpoint_every=1)), outcome(*go(lora)))


def test_a_run_that_is_over_is_loaded(tmp_path: Path) -> None:
    expected = outcome(*go(lora, tmp_path))
    calls: list[int] = []
    model, history = go(lora, tmp_path, after_step=calls.append)
    assert_same(outcome(model, history), expected)
    assert not calls


def test_the_two_newest_states_stay(tmp_path: Path) -> None:
    go(lora, tmp_path)
    assert [path.name for path in files_in(tmp_path)] == ["step-00000010.safetensors", "step-00000012.safetensors"]
    assert len(list(tmp_path.iterdir())) == 2
    files_in(tmp_path)[1].unlink()
    assert_same(outcome(*go(lora, tmp_path)), outcome(*go(lora)))


def test_nothing_of_a_frozen_base_is_stored(tmp_path: Path) -> None:
    go(lora, tmp_path)
    with safe_open(files_in(tmp_path)[-1], "pt") as file:
        stored = {name for name in file.keys() if name.startswith("model.")}  # noqa: SIM118
    factors = {f"model.{layer}.lora_{part}" for layer in ("hidden", "head") for part in "AB"}
    assert stored == factors | {
        f"model.norm.{name}" for name in ("running_mean", "running_var", "num_batches_tracked")
    } | {"model.scale"}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_handlers_are_as_before(number: int, tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    _, history = go(lora, tmp_path, bar=pressing(number, 4))
    assert history.interrupted and len(history.losses) == 5
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before
    assert files_in(tmp_path)[-1].name == "step-00000005.safetensors"


def test_without_a_folder_sigterm_does_what_it_did(monkeypatch) -> None:
    seen: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, _: seen.append(number))
    try:
        _, history = go(lora, bar=pressing(signal.SIGTERM, 3))
    finally:
        signal.signal(signal.SIGTERM, before)
    assert seen == [signal.SIGTERM] and len(history.losses) == STEPS and not history.interrupted


def test_a_thread_trains_and_resumes_too(tmp_path: Path) -> None:
    expected, found = outcome(*go(lora)), []

    def work() -> None:
        go(lora, tmp_path, bar=raising(KeyboardInterrupt, 5))
        found.append(outcome(*go(lora, tmp_path)))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert_same(found[0], expected)


def raising(error: type[BaseException], at: int) -> Callable[[Any], Iterator[int]]:
    def bar(steps: Any) -> Iterator[int]:
        for step in steps:
            if step == at:
                raise error
            yield step

    return bar


def test_a_second_ctrl_c_does_not_wait(tmp_path: Path) -> None:
    def twice(step: int) -> None:
        if step == 8:
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)
            raise AssertionError("not reached")

    model, history = go(lora, tmp_path, after_step=twice, checkpoint_every=3)
    assert history.interrupted and at_rest(model)
    assert files_in(tmp_path)[-1].name == "step-00000006.safetensors"  # step 8 was not whole, 6 was the last written
    assert_same(outcome(*go(lora, tmp_path)), outcome(*go(lora)))


TRACED = {module.__file__ for module in (training, training_state, files)}


class Tracer:
    """Acts when the run comes to a line of the traced files for the first time; the lines are counted."""

    def __init__(self, at: int, act: Callable[[], object]) -> None:
        self.at, self.act, self.seen = at, act, dict[tuple[str, int], None]()

    def __call__(self, frame: Any, event: str, _: Any) -> Any:
        if frame.f_code.co_filename not in TRACED:
            return None
        place = frame.f_code.co_filename, frame.f_lineno
        if event == "line" and place not in self.seen:
            self.seen[place] = None
            if len(self.seen) == self.at:
                self.act()
        return self

    def __enter__(self) -> "Tracer":
        sys.settrace(self)
        return self

    def __exit__(self, *_: object) -> None:
        sys.settrace(None)


SHORT = {"steps": 3, "evaluate_every": 1, "checkpoint_every": 1}


def lines() -> int:
    """How many lines of the traced files a run comes to."""
    with TemporaryDirectory() as folder, Tracer(0, lambda: None) as tracer:
        go(lora, Path(folder), **SHORT)
    return len(tracer.seen)


@pytest.mark.parametrize("every", [17, pytest.param(1, marks=pytest.mark.slow)])
def test_ctrl_c_at_every_line(every: int, tmp_path: Path) -> None:
    expected = outcome(*go(lora, **SHORT))
    before = signal.getsignal(signal.SIGINT)
    count = lines()
    assert count > 100
    for at in range(1, count + 1, every):
        folder = tmp_path / str(at)
        made = lora()
        try:
            with Tracer(at, lambda: signal.raise_signal(signal.SIGINT)):
                _, history = go(lambda made=made: made, folder, **SHORT)
            assert history.interrupted or len(history.losses) == 3
        except KeyboardInterrupt:
            pass  # before the first step or after the last one
        assert at_rest(made[0].eval() if not folder.exists() else made[0])
        assert signal.getsignal(signal.SIGINT) is before
        assert not list(folder.glob(".*"))
        assert_same(outcome(*go(lora, folder, **SHORT)), expected)


@pytest.mark.parametrize("every", [7, pytest.param(1, marks=pytest.mark.slow)])
@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError])
def test_an_error_at_every_line_of_saving(error: type[BaseException], every: int, tmp_path: Path, monkeypatch) -> None:
    """Also where no handler can put it off: the newest whole state stays, and a run goes on from there."""
    monkeypatch.setattr(sys.modules[__name__], "TRACED", {training_state.__file__, files.__file__})
    expected = outcome(*go(lora, **SHORT))

    def fail() -> None:
        raise error("full")

    for at in range(1, 200, every):
        folder = tmp_path / str(at)
        with Tracer(at, fail) as tracer, contextlib.suppress(error):
            go(lora, folder, **SHORT)
        assert_same(outcome(*go(lora, folder, **SHORT)), expected)
        assert not list(folder.glob(".*"))
        if len(tracer.seen) < at:
            break
    else:
        raise AssertionError("the run came to ever more lines")


def test_a_full_disk_leaves_the_last_whole_state(tmp_path: Path) -> None:
    go(full, tmp_path, bar=pressing(signal.SIGINT, 4))
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        with pytest.raises(OSError, match=r"cannot be written to .*: .*File too large"):
            go(full, tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before
    assert_same(outcome(*go(full, tmp_path)), outcome(*go(full)))


KILLED = """
import os, signal, sys
from pathlib import Path
sys.path[:0] = [{here!r}]
import test_resuming
from peft_lessons import training_state

def die():
    os.kill(os.getpid(), signal.SIGKILL)

def save_half(tensors, path, metadata):
    save_file(tensors, path, metadata)
    if "00000009" in path.name:
        os.truncate(path, 100)
        die()

save_file = training_state.save_file
training_state.save_file = save_half
settings = {{"after_step": lambda step: step == 8 and die()}} if {in_step} else {{}}
test_resuming.go(test_resuming.lora, Path({folder!r}), checkpoint_every=3, **settings)
"""


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="no SIGKILL there")
@pytest.mark.parametrize("in_step", [True, False], ids=["in a step", "in writing"])
def test_kill(in_step: bool, tmp_path: Path) -> None:
    script = KILLED.format(here=str(Path(__file__).parent), in_step=in_step, folder=str(tmp_path))
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert [path.name for path in files_in(tmp_path)] == ["step-00000003.safetensors", "step-00000006.safetensors"]
    assert bool(list(tmp_path.glob(".step-*"))) != in_step
    assert_same(outcome(*go(lora, tmp_path)), outcome(*go(lora)))
    assert not list(tmp_path.glob(".step-*"))


def started(tmp_path: Path) -> None:
    go(lora, tmp_path, bar=pressing(signal.SIGINT, 4))


def other_alpha() -> tuple[nn.Module, dict[str, Any]]:
    return inject(small(), LoRAConfig(rank=3, alpha=99, dropout=0.2, targets=("hidden", "head"))), {}


def other_base() -> tuple[nn.Module, dict[str, Any]]:
    torch.manual_seed(1)
    return inject(Small(), LoRAConfig(rank=3, dropout=0.2, targets=("hidden", "head"))), {}


def other_rank() -> tuple[nn.Module, dict[str, Any]]:
    return inject(small(), LoRAConfig(rank=4, dropout=0.2, targets=("hidden", "head"))), {}


@pytest.mark.parametrize(
    ("make", "settings", "message"),
    [
        (lora, {"learning_rate": 0.01}, r"another run: learning_rate 0.02 there, 0.01 here"),
        (lora, {"steps": 20}, r"steps 12 there, 20 here"),
        (lora, {"accumulate": 2}, r"accumulate 1 there, 2 here"),
        (lora_plus, {}, "groups"),
        (other_alpha, {}, r"adapters {'LoRAConfig.alpha': \['16.0'\]} there, {'LoRAConfig.alpha': \['99'\]} here"),
        (other_rank, {}, r"trained .*lora_A.*3, 8\].* there, .*lora_A.*4, 8\]"),
        (other_base, {}, r"embed.weight has other values; .*head.base_layer.weight has other values"),
        (adalora, {}, "lora_E"),
    ],
)
def test_another_run_is_refused_and_nothing_changes(make, settings: dict, message: str, tmp_path: Path) -> None:
    started(tmp_path)
    stored = {path: path.read_bytes() for path in tmp_path.iterdir()}
    model, own = make()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(ValueError, match=message):
        go(lambda: (model, own), tmp_path, **settings)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert at_rest(model)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == stored


def test_other_batches_are_refused(tmp_path: Path) -> None:
    started(tmp_path)
    model, _ = lora()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    source = windows(TEXT, batch_size=3, length=6, seed=2)
    next(source)  # an iterator that was used already
    for batches in (windows(TEXT, batch_size=3, length=6, seed=3), source):
        with pytest.raises(ValueError, match=r"other batches. Give `train` the same ones again, from the first on"):
            train(model, batches, steps=STEPS, learning_rate=0.02, checkpoint=tmp_path)
    with pytest.raises(ValueError, match="ran out after 2 of 12 steps"):
        train(model, [next(source) for _ in range(2)], steps=STEPS, learning_rate=0.02, checkpoint=tmp_path)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.write_bytes(b"{ damaged"),
        lambda path: path.write_bytes(path.read_bytes()[:-9]),
        lambda path: path.write_bytes(b""),
        lambda path: path.rename(path.with_name("step-00000007.safetensors")),
        lambda path: rewrite(path, facts={"settings": []}),
        lambda path: rewrite(path, tensors={"model.hidden.lora_A": torch.zeros(2, 2)}),
        lambda path: rewrite(path, tensors={"optimizer.hidden.lora_A.exp_avg": torch.zeros(2, 2)}),
        lambda path: rewrite(path, tensors={"optimizer.elsewhere.step": torch.zeros(())}),
        lambda path: rewrite(path, tensors={"more": torch.zeros(2, 2)}),
    ],
)
def test_a_damaged_file_is_named(damage: Callable[[Path], object], tmp_path: Path) -> None:
    started(tmp_path)
    damage(files_in(tmp_path)[-1])
    with pytest.raises(ValueError, match=r"step-0000000\d.safetensors is damaged: .*Delete it"):
        go(lora, tmp_path)
    files_in(tmp_path)[-1].unlink()
    assert_same(outcome(*go(lora, tmp_path)), outcome(*go(lora)))


def rewrite(path: Path, tensors: dict[str, Tensor] | None = None, facts: dict[str, Any] | None = None) -> None:
    with safe_open(path, "pt") as file:
        told, held = json.loads(file.metadata()["run"]), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    training_state.save_file(held | (tensors or {}), path, {"run": json.dumps(told | (facts or {}))})


def test_groups_of_other_parameters_would_be_lost(tmp_path: Path) -> None:
    model, _ = lora()
    outside = nn.Parameter(torch.zeros(3))
    with pytest.raises(ValueError, match="`groups` has others, which would be lost"):
        go(lambda: (model, {"groups": [{"params": [outside, *model.parameters()]}]}), tmp_path)


def test_waiting_signals_do_at_the_end_what_they_did_before() -> None:
    with pytest.raises(KeyboardInterrupt), Interrupts(signal.SIGINT):
        signal.raise_signal(signal.SIGINT)
        done = True
    assert done
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_the_example_of_interrupts_is_true() -> None:
    assert doctest.testmod(interrupts) == (0, 1)


def test_a_hosts_handler_is_called_and_not_replaced(tmp_path: Path) -> None:
    """A handler that raises nothing, as of a server with a flag of its own, stops no training."""
    asked: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, _: asked.append(number))
    try:
        _, history = go(lora, tmp_path, bar=pressing(signal.SIGTERM, 3))
    finally:
        signal.signal(signal.SIGTERM, before)
    assert asked == [signal.SIGTERM] and not history.interrupted and len(history.losses) == STEPS


def test_a_loss_that_is_not_finite_keeps_the_last_state(tmp_path: Path) -> None:
    def loss(model: nn.Module, input_ids: Tensor, labels: Tensor) -> Tensor:
        value = model(input_ids).square().mean()
        return value * math.nan if calls.append(None) or len(calls) == 8 else value

    calls: list[None] = []
    with pytest.raises(ValueError, match="the loss is nan at step 7"):
        go(lora, tmp_path, loss=loss, checkpoint_every=2)
    assert files_in(tmp_path)[-1].name == "step-00000006.safetensors"


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("")
    model, _ = lora()
    with pytest.raises(OSError, match="taken"):
        go(lambda: (model, {}), tmp_path / "taken")
    assert at_rest(model)
    assert os.listdir(tmp_path) == ["taken"]
