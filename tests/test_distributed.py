"""Training in two real processes equals that of one on the whole batch, and the bytes sent equal their formulas."""

import copy
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.tensor import DTensor

from peft_lessons import LoRAConfig, distributed, inject, load_adapter, trainable_parameters
from peft_lessons.distributed import STRATEGIES, Loss, connect, fine_tune, jargon, main, own_rows, parse
from peft_lessons.methods.lora import LoRALinear
from peft_lessons.models import Decoder, DecoderConfig, load_tiny_gpt
from peft_lessons.training import IGNORED, train, windows

pytestmark = pytest.mark.slow

STEPS, WINDOWS, LENGTH, RATE = 4, 4, 16, 0.01
SMALL = ["--steps", str(STEPS), "--length", str(LENGTH), "--learning-rate", str(RATE), "--rank", "4"]
TEXT = jargon()[:30_000]  # all of it would take seconds to encode in each run
DECODER = DecoderConfig(
    vocab_size=31,
    hidden_size=16,
    intermediate_size=24,
    num_hidden_layers=2,
    num_attention_heads=2,
    num_key_value_heads=1,
)
TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--local-addr", "127.0.0.1", "--nproc-per-node", "2"]
ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "CUDA_VISIBLE_DEVICES": "",
    # gloo would listen where the computer's name leads to, which need not exist where the network is cut off
    "GLOO_SOCKET_IFNAME": "lo0" if sys.platform == "darwin" else "lo",
}


def python(*arguments: str) -> subprocess.CompletedProcess:
    command = [sys.executable, *arguments]
    return subprocess.run(command, env=os.environ | ENVIRONMENT, capture_output=True, text=True, timeout=300)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders of finished runs, all on the same batches of four windows."""
    folder = tmp_path_factory.mktemp("runs")

    def arguments(name: str) -> list[str]:
        strategy, processes, *full = name.split()
        rows = str(WINDOWS // int(processes))
        return ["--strategy", strategy, "--batch", rows, "--out", str(folder / name), *SMALL, *(f"--{f}" for f in full)]

    alone, together = ["ddp 1", "fsdp2 1"], ["ddp 2", "fsdp2 2", "ddp 2 full", "fsdp2 2 full"]
    done = python(*TORCHRUN, __file__, json.dumps([arguments(name) for name in together]))  # work() below, twice
    assert done.returncode == 0, done.stderr
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.cuda, "device_count", lambda: 0)
        patch.setattr(distributed, "jargon", lambda: TEXT)
        assert [main(arguments(name)) for name in alone] == [0, 0]
    return {name: folder / name for name in [*alone, *together]}


def report(folder: Path) -> dict:
    return json.loads((folder / "report.json").read_text())


def work(runs: list[list[str]]) -> None:
    """What each of two processes does: all runs one after another, then a look at the gradients themselves.

    AdamW and clipping do not care about a factor that all gradients have in common, so equal runs prove no mean.
    """
    mesh = connect()
    distributed.jargon = lambda: TEXT
    distributed.connect = lambda: mesh  # torchrun arranges one meeting, not one a run
    for arguments in runs:
        fine_tune(parse(arguments))
    rows = torch.arange(4 * 9).view(4, 9) * 7 % 31
    for wrap in STRATEGIES.values():
        torch.manual_seed(0)
        alone = Loss(inject(Decoder(DECODER), LoRAConfig(rank=2)))
        for layer in (module for module in alone.modules() if isinstance(module, LoRALinear)):
            nn.init.normal_(layer.lora_B)
        together = copy.deepcopy(alone)
        wrapped = wrap(together, mesh)
        own = rows[2 * mesh.get_rank() :][:2]
        wrapped(own, own, 2 * 8).backward()
        alone(rows, rows, 4 * 8).backward()
        for mine, expected in zip(together.parameters(), alone.parameters(), strict=True):
            assert (mine.grad is None) == (expected.grad is None)
            if mine.grad is not None:
                gradient = mine.grad.full_tensor() if isinstance(mine.grad, DTensor) else mine.grad
                torch.testing.assert_close(gradient, expected.grad, rtol=1e-4, atol=1e-6)
    dist.barrier()


def start_of_lora() -> Decoder:
    model, _ = load_tiny_gpt()
    torch.manual_seed(0)
    return inject(model, LoRAConfig(rank=4, alpha=16))


def reference(full: bool) -> tuple[Decoder, list[float]]:
    """One process, the course's own loop, and none of the code under test but its text."""
    _, tokenizer = load_tiny_gpt()
    model = load_tiny_gpt()[0].requires_grad_(True) if full else start_of_lora()
    batches = windows(tokenizer.encode(TEXT), batch_size=WINDOWS, length=LENGTH, seed=0)
    return model, train(model, batches, steps=STEPS, learning_rate=RATE, bar=iter).losses


@pytest.fixture(scope="module")
def lora() -> tuple[Decoder, list[float]]:
    return reference(full=False)


@pytest.mark.parametrize("name", ["ddp 1", "fsdp2 1", "ddp 2", "fsdp2 2"])
def test_lora_equals_one_process_on_the_whole_batch(name: str, runs, lora) -> None:
    model, losses = lora
    assert report(runs[name])["losses"] == pytest.approx(losses, rel=1e-4)
    loaded = load_adapter(load_tiny_gpt()[0], runs[name])
    start = start_of_lora()
    with torch.no_grad():
        for mine, expected, before in zip(*map(trainable_parameters, (loaded, model, start)), strict=True):
            # as a whole: AdamW takes a full step along a gradient of nearly zero, whose sign is rounding
            assert (mine - expected).norm() < 0.01 * (expected - before).norm()
        ids = torch.arange(20)[None]
        assert (loaded(ids) - model(ids)).norm() < 0.01 * (model(ids) - start(ids)).norm()


def test_full_fine_tuning_equals_one_process_and_writes_no_adapter(runs) -> None:
    _, losses = reference(full=True)
    for name in ("ddp 2 full", "fsdp2 2 full"):
        assert report(runs[name])["losses"] == pytest.approx(losses, rel=1e-4)
        assert [path.name for path in runs[name].iterdir()] == ["report.json"]
    assert sorted(path.name for path in runs["ddp 2"].iterdir()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
        "report.json",
    ]


def test_each_process_takes_its_own_rows() -> None:
    def rows(rank: int, processes: int, count: int) -> Iterator[tuple[torch.Tensor, float]]:
        mesh = SimpleNamespace(get_rank=lambda: rank, size=lambda: processes)
        batches = (
            (input_ids, unequal(input_ids)) for input_ids, _ in windows(range(1000), batch_size=6, length=8, seed=3)
        )
        return ((input_ids, scored) for input_ids, _, scored in islice(own_rows(batches, count, mesh), 5))

    def unequal(input_ids: torch.Tensor) -> torch.Tensor:
        labels = input_ids.clone()
        labels[:2, :5] = IGNORED
        return labels

    for (first, mine), (second, theirs), (whole, all_of_them) in zip(
        rows(0, 2, 3), rows(1, 2, 3), rows(0, 1, 6), strict=True
    ):
        assert torch.equal(torch.cat((first, second)), whole)
        assert not torch.equal(first, second)
        assert mine == theirs == all_of_them / 2 == (4 * 7 + 2 * 3) / 2


def numbers(parameters: list[nn.Parameter]) -> int:
    return sum(parameter.numel() for parameter in parameters)


@pytest.mark.parametrize("full", [False, True], ids=["lora", "full"])
def test_bytes_equal_their_formulas(full: bool, runs, lora) -> None:
    model = load_tiny_gpt()[0].requires_grad_(True) if full else lora[0]
    trained = trainable_parameters(model)
    total, trainable = numbers(list(model.parameters())), numbers(trained)
    block = numbers(list(model.model.layers[0].parameters()))
    root = total - len(model.model.layers) * block
    suffix = " full" if full else ""

    found = report(runs["ddp 2" + suffix])
    assert (found["total"], found["trainable"]) == (total, trainable)
    assert found["bytes"]["step"] == {"all_reduce": 4 * trainable}
    shapes = 8 * sum(2 * parameter.ndim for parameter in trained)  # sizes and strides
    buckets = 2 if full else 1  # the first holds 1 MiB, the next 25 MiB
    layout = 4 * (len(trained) + 1) + 4 * buckets
    assert found["bytes"]["once"] == {"broadcast": 4 * total + shapes + layout, "all_gather": 2 * 8}
    assert found["bytes"]["end"] == {"all_reduce": 8 * STEPS}
    assert set(found["parameter_bytes"].values()) == {4 * total}

    found = report(runs["fsdp2 2" + suffix])
    assert (found["total"], found["trainable"]) == (total, trainable)
    assert found["bytes"]["step"] == {
        "all_gather": 4 * (2 * total - root),  # the root stays together from forward to backward
        "reduce_scatter": 4 * trainable,
        "all_reduce": 4 * len(trained),
    }
    assert found["bytes"]["once"] == {}
    saved = {} if full else {"all_gather": 4 * trainable}
    assert found["bytes"]["end"] == {"all_reduce": 8 * STEPS} | saved
    kept = 4 * total // 2
    peak = kept + 4 * (root + 2 * block)  # one block at work in backward, the next one arriving
    assert found["parameter_bytes"] == {"whole": 4 * total, "kept": kept, "peak": peak}


def test_all_end_when_one_fails(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("")
    done = python(*TORCHRUN, "-m", "peft_lessons.distributed", "--out", str(tmp_path / "taken"), *SMALL)
    assert done.returncode != 0
    assert "File exists" in done.stderr and "taken" in done.stderr


@pytest.fixture
def no_group_left() -> Iterator[None]:
    yield
    if dist.is_initialized():
        dist.destroy_process_group()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--steps", "0"], "steps must be at least 1, got 0"),
        (["--batch", "-1"], "batch must be at least 1, got -1"),
        (["--length", "1"], "length must be at least 2, got 1"),
        (["--rank", "0"], "rank must be at least 1, got 0"),
        (["--learning-rate", "0"], "learning rate must be positive and finite, got 0.0"),
        (["--targets", "q_prj"], "no module ends with 'q_prj'; this model has 'q_proj', 'k_proj'"),
    ],
)
@pytest.mark.usefixtures("no_group_left")
def test_refusals(arguments: list[str], message: str, tmp_path: Path, capsys) -> None:
    assert main(["--out", str(tmp_path), *arguments]) == 2
    assert message in capsys.readouterr().err


def test_an_unknown_strategy_is_answered_with_those_there_are(capsys) -> None:
    with pytest.raises(SystemExit):
        main(["--out", "x", "--strategy", "zero"])
    message = capsys.readouterr().err
    assert "zero" in message and "ddp" in message and "fsdp2" in message


if __name__ == "__main__":
    work(json.loads(sys.argv[1]))
    os._exit(0)  # as the module ends, and for the same reason
