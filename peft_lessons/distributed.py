"""Data-parallel fine-tuning on any number of processes and machines, which counts what they send each other.

    torchrun --nproc-per-node 2 -m peft_lessons.distributed --strategy ddp --out FOLDER --data FILE.jsonl

Each process takes its own rows of every batch, and all take the same step with the mean of their gradients. Each counts
the scored tokens of all rows, which it can, since all make the whole batch; so n processes do what one process does
with batches n times as large.

ddp     (arXiv:2006.15704) keeps the whole model in every process. The first sends it to the others at the start; a step
        all-reduces the gradients of what trains, and nothing else.
fsdp2   (arXiv:2304.11277, `fully_shard` in torch) keeps 1/n of every parameter, frozen or not, in each process. A step
        all-gathers them all in forward, those of the blocks again in backward, reduce-scatters the gradients of what
        trains, and all-reduces one number a trained tensor for the norm of all gradients.

So LoRA relieves ddp of nearly all its traffic, but fsdp2 of the reduce-scatter alone. Of b bytes in a ring each process
sends 2 (n − 1)/n · b to all-reduce them, (n − 1)/n · b to all-gather or to reduce-scatter them; gloo, which connects
CPUs, reduce-scatters by an all-reduce, and so sends twice as much for it.

More machines need only torchrun's own flags: --nnodes, --node-rank, --rdzv-endpoint. Without torchrun n is 1.

Before each step the processes ask each other whether one of them got SIGINT or SIGTERM, in one more number, which is
not counted. If so all stop there, and each writes its state to FOLDER, as it does every tenth of the steps; with
--resume the same command goes on from the newest state that all have.
"""

import argparse
import json
import os
import shutil
import signal
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from peft_lessons import data
from peft_lessons.adapters import inject, trainable_parameters
from peft_lessons.checkpoints.files import save_adapter
from peft_lessons.checks import check_count, check_positive
from peft_lessons.files import write_text
from peft_lessons.linear import LLAMA_LINEAR_LAYERS
from peft_lessons.methods.lora import LoRAConfig
from peft_lessons.models import Tokenizer, load_from_hub, load_smollm2, load_tiny_gpt
from peft_lessons.models.decoder import Block
from peft_lessons.tasks import read_examples
from peft_lessons.training import IGNORED, Batch, shuffled, terminal_bar, token_losses, train, windows
from peft_lessons.training_state import files_in, steps_of

PROGRAM = "python -m peft_lessons.distributed"
TIMEOUT = timedelta(minutes=5)  # how long a process waits for the others in one exchange before it gives up
INTERRUPTED = 130  # exit status, as a shell gives it to what Ctrl+C has ended
STATES = "training_state"  # folder in --out
MODELS = {"tiny": load_tiny_gpt, "smollm2": load_smollm2}


class Loss(nn.Module):
    """A model and its loss in one forward pass: DDP and FSDP2 act at its ends, so nothing may go around it."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor, labels: Tensor, scored: float) -> Tensor:
        """Return the sum over this process's labels, divided by `scored`, the labels that a process has on average."""
        return token_losses(self.model, input_ids, labels).sum() / scored


def ddp(module: nn.Module, mesh: DeviceMesh) -> nn.Module:
    return DistributedDataParallel(module.to(mesh.device_type))


def fsdp2(module: nn.Module, mesh: DeviceMesh) -> nn.Module:
    for block in [part for part in module.modules() if isinstance(part, Block)]:
        fully_shard(block, mesh=mesh)
    fully_shard(module, mesh=mesh)  # what no block holds: embedding, last norm, head
    return module


STRATEGIES: dict[str, Callable[[nn.Module, DeviceMesh], nn.Module]] = {"ddp": ddp, "fsdp2": fsdp2}


class Traffic(TorchDispatchMode):
    """Counts, inside of its context, the collectives that this process takes part in.

    `bytes[kind]` sums the whole tensors: what is reduced or broadcast, what a gather ends with, what a reduce-scatter
    starts with. `gathered` is the most bytes of sharded parameters of `module` that were in use or arriving at once.
    """

    KINDS = ("all_reduce", "all_gather", "reduce_scatter", "broadcast")

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module
        self.bytes: Counter[str] = Counter()
        self.gathered = 0
        self.counts = True

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        if DTensor in types:
            return NotImplemented  # it turns into operations on plain tensors, which come here in their turn
        result = func(*args, **(kwargs or {}))
        if self.counts and func.namespace in ("c10d", "_c10d_functional"):
            spelling = func.overloadpacket.__name__.replace("_", "")  # allreduce_, _allgather_base_, all_reduce, …
            for kind in self.KINDS:
                if kind.replace("_", "") in spelling:
                    self._count(kind, max(_bytes(part) for part in (*args, result)))
        return result

    @contextmanager
    def uncounted(self) -> Iterator[None]:
        self.counts = False
        try:
            yield
        finally:
            self.counts = True

    def _count(self, kind: str, size: int) -> None:
        self.bytes[kind] += size
        parameters = list(self.module.parameters())
        in_use = [parameter for parameter in parameters if not isinstance(parameter, DTensor)]
        if kind == "all_gather" and len(in_use) < len(parameters):
            self.gathered = max(self.gathered, _bytes(in_use) + size)


class StopRequests:
    """A context in which SIGINT and SIGTERM do nothing but ask for training to stop, which all processes agree on."""

    SIGNALS = (signal.SIGINT, signal.SIGTERM)

    def __init__(self, mesh: DeviceMesh, traffic: Traffic) -> None:
        self.mesh, self.traffic = mesh, traffic
        self.asked = False

    def __enter__(self) -> "StopRequests":
        self.before = {number: signal.signal(number, self._note) for number in self.SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def _note(self, *_: object) -> None:
        self.asked = True

    def heeded(self, steps: Iterable[int]) -> Iterator[int]:
        """Yield the steps. Once any process is asked to stop, all raise KeyboardInterrupt before the same step."""
        for step in steps:
            with self.traffic.uncounted():
                if least(self.mesh, -int(self.asked)):
                    raise KeyboardInterrupt
            yield step


def least(mesh: DeviceMesh, number: int) -> int:
    """Return the smallest of the numbers that the processes give."""
    found = torch.tensor(number, device=mesh.device_type)
    dist.all_reduce(found, dist.ReduceOp.MIN)
    return int(found)


def fine_tune(options: argparse.Namespace) -> dict[str, Any] | None:
    """Train together with the other processes and return the report; the first process writes it, and the adapter.

    Returns None when training was stopped; its state then lies in `options.out`.

    Raises:
        ValueError: for options that make no sense. Whatever loading and training raise is raised, too.
        TypeError: for options of another type.
    """
    check_count("steps", options.steps)
    check_count("batch", options.batch)
    check_count("length", options.length, least=2)  # a window's first token is not scored
    check_positive("learning rate", options.learning_rate)
    config = LoRAConfig(rank=options.rank, alpha=options.alpha, targets=tuple(options.targets))
    mesh = connect()
    first = mesh.get_rank() == 0
    if first:
        options.out.mkdir(parents=True, exist_ok=True)  # rather fail now than after hours
    state = state_folder(options, mesh)

    model, tokenizer = MODELS.get(options.model, lambda: load_from_hub(options.model))()
    longest = model.config.max_position_embeddings
    batches = own_rows(whole_batches(tokenizer, options, options.batch * mesh.size(), longest), options.batch, mesh)
    torch.manual_seed(options.seed)  # the same adapter everywhere, since FSDP2 takes each shard from its own process
    model = model.requires_grad_(True) if options.full else inject(model, config)
    module = Loss(model)
    whole, total = _bytes(list(module.parameters())), sum(p.numel() for p in module.parameters())
    trainable = sum(p.numel() for p in trainable_parameters(module))

    with Traffic(module) as traffic, StopRequests(mesh, traffic) as stop:
        wrapped = STRATEGIES[options.strategy](module, mesh)
        kept = _bytes([p.to_local() if isinstance(p, DTensor) else p for p in module.parameters()])
        before, step, made = traffic.bytes.copy(), Counter[str](), 0

        def after_step(_: int) -> None:
            nonlocal made
            made += 1
            if made == 1:
                step.update(traffic.bytes - before)

        history = train(
            wrapped,
            batches,
            steps=options.steps,
            learning_rate=options.learning_rate,
            seed=options.seed,
            loss=lambda module, *batch: module(*batch),
            after_step=after_step,
            bar=lambda steps: stop.heeded(terminal_bar(steps) if first else steps),
            checkpoint=state,
        )
        if history.interrupted:
            dist.barrier()  # nobody leaves before all states are written
            if first:
                done = len(history.losses)
                print(f"stopped after {done} of {options.steps} steps; --resume goes on from there", flush=True)
            return None
        after = traffic.bytes.copy()
        losses = torch.tensor(history.losses, dtype=torch.float64, device=mesh.device_type)
        dist.all_reduce(losses)
        if not options.full:
            gather_trained(model)

        settings = {name: value for name, value in vars(options).items() if name not in ("out", "resume")}
        report = settings | {
            "world_size": mesh.size(),
            "device": mesh.device_type,
            "trainable": trainable,
            "total": total,
            "parameter_bytes": {"whole": whole, "kept": kept, "peak": kept + traffic.gathered},
            "bytes": {
                # DDP agrees on its buckets in the second step: what does not belong to every step happens once
                "once": after - Counter({kind: size * made for kind, size in step.items()}),
                "step": step,
                "end": traffic.bytes - after,
            },
            "seconds": round(history.seconds, 3),
            "losses": (losses / mesh.size()).tolist(),
        }
        if first:
            if not options.full:
                save_adapter(model, config, options.out)
            write_text(options.out / "report.json", json.dumps(report, indent=2, default=str) + "\n")
            print(summary(report), flush=True)
        dist.barrier()  # nobody leaves before the files are there
        shutil.rmtree(state)
        with suppress(OSError):  # while others of the processes have theirs in it
            state.parent.rmdir()
    return report


def state_folder(options: argparse.Namespace, mesh: DeviceMesh) -> Path:
    """Return the folder for this process's state, without states that other processes do not have.

    One that was killed may not have come to write what others have: all go on from the oldest of their newest states.

    Raises:
        ValueError: for the state of an unfinished run, unless `options.resume` says to go on with it, and for that
            of another number of processes.
    """
    root = options.out / STATES
    own = root / f"{mesh.get_rank()}-of-{mesh.size()}"
    found = [folder.name.partition("-of-")[2] for folder in root.glob("*-of-*") if files_in(folder)]
    if others := set(found) - {str(mesh.size())}:
        raise ValueError(f"{root} is of {others.pop()} processes, and these are {mesh.size()}: --resume needs as many")
    if not options.resume and files_in(own):
        raise ValueError(f"{root} holds an unfinished run: --resume goes on with it, another --out begins anew")
    common = least(mesh, max(map(steps_of, files_in(own)), default=0))
    for path in files_in(own):
        if steps_of(path) > common:
            path.unlink()
    if common != max(map(steps_of, files_in(own)), default=0):
        raise ValueError(f"{own} lacks the state after step {common}, which the other processes have")
    return own


def connect() -> DeviceMesh:
    """Join the group that torchrun describes, or make one of this process alone; return a mesh of all its processes.

    A process has the GPU of its LOCAL_RANK.

    Raises:
        ValueError: where there are fewer GPUs than processes.
    """
    local, gpus = int(os.environ.get("LOCAL_RANK", 0)), torch.cuda.device_count()
    if gpus and local >= gpus:
        raise ValueError(f"process {local} of this machine finds {gpus} GPUs: --nproc-per-node can be at most {gpus}")
    if gpus:
        torch.cuda.set_device(local)
    alone: dict[str, Any] = {} if "RANK" in os.environ else {"store": dist.HashStore(), "rank": 0, "world_size": 1}
    dist.init_process_group("nccl" if gpus else "gloo", timeout=TIMEOUT, **alone)
    return init_device_mesh("cuda" if gpus else "cpu", (dist.get_world_size(),))


def jargon() -> str:
    """Return the text to learn from: the Jargon File without every tenth entry, which stays for tests."""
    return "\n".join(entry["text"] for number, entry in enumerate(data.jargon()) if number % 10)


def whole_batches(tokenizer: Tokenizer, options: argparse.Namespace, size: int, longest: int) -> Iterator[Batch]:
    """Batches of `size` rows: examples of `options.data`, at most `longest` tokens each, or windows of text."""
    if options.data is None:
        return windows(tokenizer.encode(jargon()), batch_size=size, length=options.length, seed=options.seed)
    examples = read_examples(options.data, tokenizer, longest)
    return shuffled(examples, batch_size=size, pad_id=tokenizer.eos_id, seed=options.seed)


def own_rows(batches: Iterable[Batch], count: int, mesh: DeviceMesh) -> Iterator[tuple[Tensor, Tensor, float]]:
    """Yield this process's `count` rows of each batch, which all processes make alike.

    With them comes the number of labels that are scored in the rows of one process, on average over the processes.
    """
    rows = slice(mesh.get_rank() * count, (mesh.get_rank() + 1) * count)
    for input_ids, labels in batches:
        scored = int((labels[:, 1:] != IGNORED).sum())
        yield input_ids[rows], labels[rows], scored / mesh.size()


def gather_trained(model: nn.Module) -> None:
    """Put a whole tensor in the place of each sharded parameter that trains. All processes have to call it."""
    for name, parameter in list(model.named_parameters()):
        if parameter.requires_grad and isinstance(parameter, DTensor):
            parent, _, own_name = name.rpartition(".")
            setattr(model.get_submodule(parent), own_name, nn.Parameter(parameter.full_tensor().detach()))


def summary(report: dict[str, Any]) -> str:
    memory, losses = report["parameter_bytes"], report["losses"]
    lines = [
        f"{report['strategy']}, {report['world_size']} processes on {report['device']}: {report['steps']} steps in "
        f"{report['seconds']:.1f} s, loss {losses[0]:.3f} → {losses[-1]:.3f}",
        f"{report['trainable']:,} of {report['total']:,} parameters train; of all their {memory['whole']:,} bytes a "
        f"process keeps {memory['kept']:,} and holds at most {memory['peak']:,}",
    ]
    return "\n".join(lines + [f"{size:15,} bytes of {kind} a step" for kind, size in report["bytes"]["step"].items()])


def _bytes(tensors: Any) -> int:
    """Of all tensors in nested lists and tuples."""
    return sum(leaf.nbytes for leaf in tree_leaves(tensors) if isinstance(leaf, Tensor))


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Parse what `fine_tune` takes, from the command line's arguments; without them, from this process's own."""
    parser = argparse.ArgumentParser(prog=PROGRAM, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    add = parser.add_argument
    add("--out", type=Path, required=True, help="folder for the adapter and report.json")
    add("--resume", action="store_true", help="go on with the run that was stopped in the folder, if there is one")
    add("--data", type=Path, help='file of lines {"prompt": …, "answer": …} to learn; without it, the Jargon File')
    add("--strategy", choices=STRATEGIES, default="ddp", help="what the processes share")
    add("--model", default="tiny", help="tiny, smollm2, a folder or a name on Hugging Face's hub")
    add("--full", action="store_true", help="train all parameters, no adapter, and write the report alone")
    add("--rank", type=int, default=8, help="of LoRA")
    add("--alpha", type=float, default=16.0, help="of LoRA")
    add("--targets", nargs="+", default=LLAMA_LINEAR_LAYERS, help="layers that LoRA adapts")
    add("--steps", type=int, default=60, help="updates")
    add("--batch", type=int, default=8, help="examples, or windows of text, that a process takes in a step")
    add("--length", type=int, default=64, help="tokens of a window of text")
    add("--learning-rate", type=float, default=0.01, help="peak of AdamW's; 0.01 suits LoRA in the tiny model")
    add("--seed", type=int, default=0, help="of the adapter's start and the order of the windows")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status, 2 for what cannot be done as asked, 130 for a stopped run."""
    try:
        status = 0 if fine_tune(parse(arguments)) else INTERRUPTED
    except (ValueError, TypeError, OSError) as error:
        print(f"{PROGRAM}: {error}", file=sys.stderr)
        return 2  # at once: torchrun ends the other processes when it sees this one's status
    # Only now that DDP is gone: were it the last to hold the group, it would wait with Python's lock in hand for gloo's
    # thread to end, and that thread may need the lock.
    dist.destroy_process_group()
    return status


if __name__ == "__main__":
    status = main()
    sys.stdout.flush()
    # Not sys.exit: while Python takes itself down, a thread of gloo that still holds a tensor may abort the process or
    # wait for ever (github.com/pytorch/pytorch/issues/190489).
    os._exit(status)
