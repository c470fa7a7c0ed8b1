"""Data-parallel fine-tuning on any number of processes and machines, which counts what they send each other.

    torchrun --nproc-per-node 2 -m peft_lessons.distributed --strategy ddp --out FOLDER

Each process takes its own rows of every batch, and all take the same step with the mean of their gradients. As each row
scores equally many tokens, n processes do what one process does with batches n times as large.

ddp     (arXiv:2006.15704) keeps the whole model in every process. The first sends it to the others at the start; a step
        all-reduces the gradients of what trains, and nothing else.
fsdp2   (arXiv:2304.11277, `fully_shard` in torch) keeps 1/n of every parameter, frozen or not, in each process. A step
        all-gathers them all in forward, those of the blocks again in backward, reduce-scatters the gradients of what
        trains, and all-reduces one number a trained tensor for the norm of all gradients.

So LoRA relieves ddp of nearly all its traffic, but fsdp2 of the reduce-scatter alone. Of b bytes in a ring each process
sends 2 (n − 1)/n · b to all-reduce them, (n − 1)/n · b to all-gather or to reduce-scatter them; gloo, which connects
CPUs, reduce-scatters by an all-reduce, and so sends twice as much for it.

More machines need only torchrun's own flags: --nnodes, --node-rank, --rdzv-endpoint. Without torchrun n is 1.
"""

import argparse
import json
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
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
from peft_lessons.linear import LLAMA_LINEAR_LAYERS
from peft_lessons.methods.lora import LoRAConfig
from peft_lessons.models import Tokenizer, load_from_hub, load_smollm2, load_tiny_gpt
from peft_lessons.models.decoder import Block
from peft_lessons.training import Batch, language_model_loss, train, windows

PROGRAM = "python -m peft_lessons.distributed"
TIMEOUT = timedelta(minutes=5)  # how long a process waits for the others in one exchange before it gives up
MODELS = {"tiny": load_tiny_gpt, "smollm2": load_smollm2}


class Loss(nn.Module):
    """A model and its loss in one forward pass: DDP and FSDP2 act at its ends, so nothing may go around it."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor, labels: Tensor) -> Tensor:
        return language_model_loss(self.model, input_ids, labels)


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

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        if DTensor in types:
            return NotImplemented  # it turns into operations on plain tensors, which come here in their turn
        result = func(*args, **(kwargs or {}))
        if func.namespace in ("c10d", "_c10d_functional"):
            spelling = func.overloadpacket.__name__.replace("_", "")  # allreduce_, _allgather_base_, all_reduce, …
            for kind in self.KINDS:
                if kind.replace("_", "") in spelling:
                    self._count(kind, max(_bytes(part) for part in (*args, result)))
        return result

    def _count(self, kind: str, size: int) -> None:
        self.bytes[kind] += size
        parameters = list(self.module.parameters())
        in_use = [parameter for parameter in parameters if not isinstance(parameter, DTensor)]
        if kind == "all_gather" and len(in_use) < len(parameters):
            self.gathered = max(self.gathered, _bytes(in_use) + size)


def fine_tune(options: argparse.Namespace) -> dict[str, Any]:
    """Trains together with the other processes and returns the report; the first process writes it, and the adapter.

    Raises ValueError or TypeError for options that make no sense, and whatever loading and training raise.
    """
    check_count("steps", options.steps)
    check_count("batch", options.batch)
    check_count("length", options.length, least=2)  # a window's first token is not scored
    check_positive("learning rate", options.learning_rate)
    config = LoRAConfig(rank=options.rank, alpha=options.alpha, targets=tuple(options.targets))
    mesh = connect()
    if mesh.get_rank() == 0:
        options.out.mkdir(parents=True, exist_ok=True)  # rather fail now than after hours

    model, tokenizer = MODELS.get(options.model, lambda: load_from_hub(options.model))()
    torch.manual_seed(options.seed)  # the same adapter everywhere, since FSDP2 takes each shard from its own process
    model = model.requires_grad_(True) if options.full else inject(model, config)
    module = Loss(model)
    whole, total = _bytes(list(module.parameters())), sum(p.numel() for p in module.parameters())
    trainable = sum(p.numel() for p in trainable_parameters(module))

    with Traffic(module) as traffic:
        wrapped = STRATEGIES[options.strategy](module, mesh)
        kept = _bytes([p.to_local() if isinstance(p, DTensor) else p for p in module.parameters()])
        before, step = traffic.bytes.copy(), Counter[str]()
        history = train(
            wrapped,
            own_rows(tokenizer, options, mesh),
            steps=options.steps,
            learning_rate=options.learning_rate,
            seed=options.seed,
            loss=lambda module, *batch: module(*batch),
            after_step=lambda number: step.update(traffic.bytes - before) if number == 1 else None,
            bar=None if mesh.get_rank() == 0 else iter,
        )
        if history.interrupted:
            raise KeyboardInterrupt  # after different steps, perhaps: what the processes hold need not fit together
        after = traffic.bytes.copy()
        losses = torch.tensor(history.losses, dtype=torch.float64, device=mesh.device_type)
        dist.all_reduce(losses)
        if not options.full:
            gather_trained(model)

    settings = {name: value for name, value in vars(options).items() if name != "out"}
    report = settings | {
        "world_size": mesh.size(),
        "device": mesh.device_type,
        "trainable": trainable,
        "total": total,
        "parameter_bytes": {"whole": whole, "kept": kept, "peak": kept + traffic.gathered},
        "bytes": {
            # DDP agrees on its buckets in the second step: what does not belong to every step happens once
            "once": after - Counter({kind: size * options.steps for kind, size in step.items()}),
            "step": step,
            "end": traffic.bytes - after,
        },
        "seconds": round(history.seconds, 3),
        "losses": (losses / mesh.size()).tolist(),
    }
    if mesh.get_rank() == 0:
        if not options.full:
            save_adapter(model, config, options.out)
        partial = options.out / "report.json.partial"
        partial.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
        partial.replace(options.out / "report.json")
        print(summary(report), flush=True)
    dist.barrier()  # nobody leaves before the files are there
    return report


def connect() -> DeviceMesh:
    """Joins the group that torchrun describes, or makes one of this process alone; a mesh of all its processes.

    A process has the GPU of its LOCAL_RANK. Raises ValueError where there are fewer GPUs than processes.
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
    """The text to learn from: the Jargon File without every tenth entry, which stays for tests."""
    return "\n".join(entry["text"] for number, entry in enumerate(data.jargon()) if number % 10)


def own_rows(tokenizer: Tokenizer, options: argparse.Namespace, mesh: DeviceMesh) -> Iterator[Batch]:
    """This process's `options.batch` windows of each batch, which all processes draw alike from one seed."""
    rows = slice(mesh.get_rank() * options.batch, (mesh.get_rank() + 1) * options.batch)
    size = options.batch * mesh.size()
    for input_ids, labels in windows(
        tokenizer.encode(jargon()), batch_size=size, length=options.length, seed=options.seed
    ):
        yield input_ids[rows], labels[rows]


def gather_trained(model: nn.Module) -> None:
    """Puts a whole tensor in the place of each sharded parameter that trains. All processes have to call it."""
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
    """What `fine_tune` takes, from the command line's arguments; without them, from this process's own."""
    parser = argparse.ArgumentParser(prog=PROGRAM, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    add = parser.add_argument
    add("--out", type=Path, required=True, help="folder for the adapter and report.json")
    add("--strategy", choices=STRATEGIES, default="ddp", help="what the processes share")
    add("--model", default="tiny", help="tiny, smollm2, a folder or a name on Hugging Face's hub")
    add("--full", action="store_true", help="train all parameters, no adapter, and write the report alone")
    add("--rank", type=int, default=8, help="of LoRA")
    add("--alpha", type=float, default=16.0, help="of LoRA")
    add("--targets", nargs="+", default=LLAMA_LINEAR_LAYERS, help="layers that LoRA adapts")
    add("--steps", type=int, default=60, help="updates")
    add("--batch", type=int, default=8, help="windows of text that a process takes in a step")
    add("--length", type=int, default=64, help="tokens of a window")
    add("--learning-rate", type=float, default=0.01, help="peak of AdamW's; 0.01 suits LoRA in the tiny model")
    add("--seed", type=int, default=0, help="of the adapter's start and the order of the windows")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status, 2 for what cannot be done as it was asked."""
    try:
        fine_tune(parse(arguments))
    except (ValueError, TypeError, OSError) as error:
        print(f"{PROGRAM}: {error}", file=sys.stderr)
        return 2  # at once: torchrun ends the other processes when it sees this one's status
    # Only now that DDP is gone: were it the last to hold the group, it would wait with Python's lock in hand for gloo's
    # thread to end, and that thread may need the lock.
    dist.destroy_process_group()
    return 0


if __name__ == "__main__":
    status = main()
    sys.stdout.flush()
    # Not sys.exit: while Python takes itself down, a thread of gloo that still holds a tensor may abort the process or
    # wait for ever (github.com/pytorch/pytorch/issues/190489).
    os._exit(status)
