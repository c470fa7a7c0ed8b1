"""Training in two real processes equals that of one on the whole batch, and the bytes sent equal their formulas."""

import copy
import json
import os
import signal
import subprocess
import sys
import time
from argparse import Namespace
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor

from peft_lessons import LoRAConfig, distributed, inject, load_adapter, trainable_parameters
from peft_lessons.distributed import STRATEGIES, Loss, connect, fine_tune, jargon, main, own_rows, parse
from peft_lessons.methods.lora import LoRALinear
from peft_lessons.models import Decoder, DecoderConfig, load_tiny_gpt
from peft_lessons.models.tiny_gpt import FOLDER
from peft_lessons.training import IGNORED, shuffled, train, windows
from peft_lessons.training_state import files_in, steps_of

pytestmark = pytest.mark.slow

STEPS, WINDOWS, LENGTH, RATE = 4, 4, 16, 0.01
SMALL = ["--steps", str(STEPS), "--length", str(LENGTH), "--learning-rate", str(RATE), "--rank", "4"]
TEXT = jargon()[:30_000]  # all of it would take seconds to encode in each run
DATA = "".join(json.dumps({"prompt": f"{n} and 1 are", "answer": "x" * n}) + "\n" for n in range(1, 13))
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

    (folder / "data.jsonl").write_text(DATA)

    def arguments(name: str) -> list[str]:
        strategy, processes, *kind = name.split()
        rows = str(WINDOWS // int(processes))
        more = {"full": ["--full"], "data": ["--data", str(folder / "data.jsonl")], "stopped": ["--resume"]}
        added = [word for of in kind for word in more[of]]
        return ["--strategy", strategy, "--batch", rows, "--out", str(folder / name), *SMALL, *added]

    alone, together = ["ddp 1", "fsdp2 1"], ["ddp 2", "fsdp2 2", "ddp 2 full", "fsdp2 2 full"]
    together += ["ddp 2 stopped", "fsdp2 2 stopped", "ddp 2 data", "fsdp2 2 data"]
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
        options = parse(arguments)
        if options.resume:
            stop_and_lose_a_state(options, mesh)
        assert fine_tune(options)["steps"] == STEPS
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


def stop_and_lose_a_state(options: Namespace, mesh: DeviceMesh) -> None:
    """The second process gets SIGTERM in step 3, and all stop after it; the first then loses what it wrote last."""

    def asked_in_step_3(*inputs) -> Iterator[tuple]:
        for number, batch in enumerate(own_rows(*inputs), start=1):
            if number == 3 and mesh.get_rank() == 1:
                signal.raise_signal(signal.SIGTERM)
            yield batch

    distributed.own_rows = asked_in_step_3
    before = signal.getsignal(signal.SIGTERM)
    assert fine_tune(options) is None
    assert signal.getsignal(signal.SIGTERM) is before
    distributed.own_rows = own_rows
    states = files_in(options.out / "training_state" / f"{mesh.get_rank()}-of-2")
    assert [steps_of(path) for path in states] == [2, 3]
    assert not (options.out / "report.json").exists()
    if mesh.get_rank() == 0:
        states[-1].unlink()


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


@pytest.mark.parametrize("strategy", ["ddp", "fsdp2"])
def test_a_stopped_run_that_goes_on_equals_one_that_never_stopped(strategy: str, runs) -> None:
    expected, found = runs[f"{strategy} 2"], runs[f"{strategy} 2 stopped"]
    assert report(found)["losses"] == report(expected)["losses"]
    for name in ("adapter_model.safetensors", "adapter_config.json"):
        assert (found / name).read_bytes() == (expected / name).read_bytes()
    assert {path.name for path in found.iterdir()} == {path.name for path in expected.iterdir()}
    assert report(found)["bytes"]["step"] == report(expected)["bytes"]["step"]


@pytest.mark.parametrize("strategy", ["ddp", "fsdp2"])
def test_rows_that_score_unequally_many_tokens_weigh_as_in_one_process(strategy: str, runs) -> None:
    model, tokenizer = start_of_lora(), load_tiny_gpt()[1]
    examples = [
        (tokenizer.encode(f"{n} and 1 are"), [*tokenizer.encode("x" * n), tokenizer.eos_id]) for n in range(1, 13)
    ]
    batches = shuffled(examples, batch_size=WINDOWS, pad_id=tokenizer.eos_id, seed=0)
    losses = train(model, batches, steps=STEPS, learning_rate=RATE, bar=iter).losses
    found = runs[f"{strategy} 2 data"]
    assert report(found)["losses"] == pytest.approx(losses, rel=1e-4)
    loaded, start = load_adapter(load_tiny_gpt()[0], found), start_of_lora()
    for mine, expected, before in zip(*map(trainable_parameters, (loaded, model, start)), strict=True):
        assert (mine - expected).norm() < 0.01 * (expected - before).norm()


def test_ctrl_c_to_torchrun_leaves_a_state_of_one_step(tmp_path: Path) -> None:
    (tmp_path / "data.jsonl").write_text(DATA)
    command = [sys.executable, *TORCHRUN, "-m", "peft_lessons.distributed", "--out", str(tmp_path / "out")]
    command += ["--data", str(tmp_path / "data.jsonl"), "--batch", "1", "--rank", "2", "--steps", "200"]
    environment = os.environ | ENVIRONMENT
    run = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    states = tmp_path / "out" / "training_state"
    try:
        started = time.monotonic()
        while len(list(states.glob("*-of-2/step-00000020.safetensors"))) < 2 and time.monotonic() < started + 120:
            time.sleep(0.05)
        run.send_signal(signal.SIGINT)
        output, errors = run.communicate(timeout=60)
    finally:
        run.kill()
    newest = {folder.name: steps_of(files_in(folder)[-1]) for folder in states.iterdir()}
    assert newest.keys() == {"0-of-2", "1-of-2"} and len(set(newest.values())) == 1, errors
    assert f"stopped after {newest['0-of-2']} of 200 steps; --resume goes on from there" in output


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


@pytest.fixture
def without_gpus(monkeypatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)


@pytest.mark.usefixtures("no_group_left", "without_gpus")
def test_an_unfinished_run_is_not_overwritten(tmp_path: Path, capsys, monkeypatch) -> None:
    (tmp_path / "data.jsonl").write_text(DATA)
    out = tmp_path / "out"
    arguments = ["--out", str(out), "--data", str(tmp_path / "data.jsonl"), "--batch", "2", *SMALL]

    def interrupted(*inputs) -> Iterator[tuple]:
        for number, batch in enumerate(own_rows(*inputs)):
            if number == 2:
                signal.raise_signal(signal.SIGINT)
            yield batch

    with monkeypatch.context() as patch:
        patch.setattr(distributed, "own_rows", interrupted)
        assert main(arguments) == 130
    assert "stopped after 3 of 4 steps; --resume goes on from there" in capsys.readouterr().out
    assert main(arguments) == 2
    assert "training_state holds an unfinished run: --resume goes on with it" in capsys.readouterr().err
    dist.destroy_process_group()
    assert main([*arguments, "--resume", "--learning-rate", "0.5"]) == 2
    assert "another run: learning_rate 0.01 there, 0.5 here" in capsys.readouterr().err
    dist.destroy_process_group()
    (out / "training_state" / "0-of-1").rename(out / "training_state" / "0-of-3")
    assert main([*arguments, "--resume"]) == 2
    assert "is of 3 processes, and these are 1: --resume needs as many" in capsys.readouterr().err
    dist.destroy_process_group()
    (out / "training_state" / "0-of-3").rename(out / "training_state" / "0-of-1")
    assert main([*arguments, "--resume"]) == 0
    assert len(report(out)["losses"]) == STEPS
    assert main(["--resume", *arguments]) == 0  # nothing is left to go on from: it begins anew, and comes to the same
    assert not (out / "training_state").exists()


@pytest.mark.usefixtures("no_group_left", "without_gpus")
def test_bad_lines_are_named_by_number(tmp_path: Path, capsys) -> None:
    (tmp_path / "data.jsonl").write_text(DATA + '{"prompt": "a"}\n')
    assert main(["--out", str(tmp_path / "out"), "--data", str(tmp_path / "data.jsonl"), *SMALL]) == 2
    assert "data.jsonl: line 13: 'answer' is missing" in capsys.readouterr().err
    assert list((tmp_path / "out").iterdir()) == []
    dist.destroy_process_group()
    assert main(["--out", str(tmp_path / "out"), "--data", str(tmp_path / "none.jsonl"), *SMALL]) == 2
    assert "none.jsonl" in capsys.readouterr().err


@pytest.mark.usefixtures("no_group_left", "without_gpus")
def test_a_folder_without_tokenizer_config(tmp_path: Path) -> None:
    (tmp_path / "data.jsonl").write_text(DATA)
    for name in ("config.json", "model.safetensors", "tokenizer.json"):
        (tmp_path / "model").mkdir(exist_ok=True)
        (tmp_path / "model" / name).write_bytes((FOLDER / name).read_bytes())
    arguments = ["--model", str(tmp_path / "model"), "--data", str(tmp_path / "data.jsonl"), "--batch", "2", *SMALL]
    assert main(["--out", str(tmp_path / "out"), *arguments]) == 0
    assert len(report(tmp_path / "out")["losses"]) == STEPS


def test_an_unknown_strategy_is_answered_with_those_there_are(capsys) -> None:
    with pytest.raises(SystemExit):
        main(["--out", "x", "--strategy", "zero"])
    message = capsys.readouterr().err
    assert "zero" in message and "ddp" in message and "fsdp2" in message


if __name__ == "__main__":
    work(json.loads(sys.argv[1]))
    os._exit(0)  # as the module ends, and for the same reason
