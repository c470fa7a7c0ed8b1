"""Train the model that draws letters; writes peft_lessons/models/letters. An hour on two free cores.

    OMP_WAIT_POLICY=passive python -m tools.artifacts.train_letters FOLDER

FOLDER is where tools/artifacts/make_letters.py left letters.safetensors. There, too, the state of training is kept:
stop whenever you like, the same command goes on, and a cycle that is added is trained alone. Seeded: the same torch on
the same kind of processor with the same number of threads gives the same bytes. With --now it trains nothing, and
writes what the newest checkpoint holds; `about.json` says how many steps that were.
"""

import hashlib
import json
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import load_file, save
from torch import Tensor, nn
from tqdm import tqdm

from peft_lessons.files import write_bytes
from peft_lessons.models.diffusion import (
    DiffusionConfig,
    DiffusionTransformer,
    flow_batches,
    flow_evaluation,
    flow_matching_loss,
)
from peft_lessons.models.letters import FOLDER, LETTERS
from peft_lessons.tasks import typeface, typeface_names
from peft_lessons.training import History, evaluate_loss, train
from peft_lessons.training_state import files_in

CONFIG = DiffusionConfig(num_labels=len(LETTERS))
# Steps; in each cycle the rate rises and falls to zero (warm restarts, arXiv:1608.03983), so that all end clean.
CYCLES = (12_000,)
BATCH_SIZE = 64
LEARNING_RATE = 1.5e-3
WARMUP = 0.05
SHIFT = 1
WARP = 0.12  # standard deviation of the entries of an affine map
SEED = 0
AVERAGED_OVER = 250  # steps, at most: the weights that are shipped are a running average of the last ones
POINTS = 20  # of the loss curve, in each cycle; as many checkpoints are written
EVALUATIONS = 4  # in each cycle


class Averaged(nn.Module):
    """A model, and the running average of its weights in buffers, which a checkpoint of training keeps."""

    def __init__(self, model: DiffusionTransformer) -> None:
        super().__init__()
        self.model = model
        for place, parameter in enumerate(model.parameters()):
            self.register_buffer(f"average_{place}", parameter.detach().clone())

    @torch.no_grad()
    def add(self, steps: int) -> None:
        """Take in the weights after so many steps: over the first few, the average is one of few."""
        share = max(1 / AVERAGED_OVER, 9 / (10 + steps))
        torch._foreach_lerp_(list(self.buffers()), list(self.model.parameters()), share)

    def restore(self, folder: Path) -> History:
        """Take the average that the newest checkpoint in a folder holds; returns how training went up to there."""
        with safe_open(files_in(folder)[-1], "pt") as file:
            for name, buffer in self.named_buffers():
                buffer.copy_(file.get_tensor(f"model.{name}"))
            return History(**json.loads(file.metadata()["run"])["history"])

    def averaged(self) -> DiffusionTransformer:
        state = {name: buffer for (name, _), buffer in zip(self.model.named_parameters(), self.buffers(), strict=True)}
        return DiffusionTransformer.from_tensors(self.model.config, {name: one.clone() for name, one in state.items()})


compiled = torch.compile(flow_matching_loss)  # half the time of a step, when a C++ compiler is there


def loss(model: Averaged, *batch: Tensor) -> Tensor:
    with torch.autocast("cpu", torch.bfloat16):
        return compiled(model.model, *batch)


def measured_loss(model: Averaged, *batch: Tensor) -> Tensor:
    with torch.autocast("cpu", torch.bfloat16):
        return flow_matching_loss(model.averaged(), *batch)


def held_out() -> list[tuple[Tensor, ...]]:
    """Every letter of the typefaces that the base never sees, to measure by."""
    faces = [typeface(name) for name in typeface_names()]
    labels = torch.arange(len(LETTERS)).repeat(len(faces))
    return flow_evaluation(torch.cat(faces), labels, draws=4)  # type: ignore[return-value]


def training_letters(folder: Path) -> tuple[Tensor, Tensor]:
    """The pictures, (typefaces · 52, size, size) in [−1, 1], and their labels."""
    letters = load_file(folder / "letters.safetensors")["letters"]
    return letters.flatten(0, 1).float() / 7.5 - 1, torch.arange(len(LETTERS)).repeat(len(letters))


def styled(batches: Iterator[tuple[Tensor, ...]]) -> Iterator[tuple[Tensor, ...]]:
    """Every second picture as one more typeface might have it: nine hundred are not all the styles that there are."""
    generator = torch.Generator().manual_seed(SEED)
    for pictures, *others in batches:
        half = len(pictures) // 2
        yield torch.cat((pictures[:half], warp(pictures[half:], generator))), *others


def warp(pictures: Tensor, generator: torch.Generator) -> Tensor:
    """Stretch, slant, turn and move each picture by amounts of its own; from outside comes paper."""
    change = torch.randn(len(pictures), 2, 3, generator=generator) * WARP
    change[:, :, 2] /= 4  # all pictures are centred
    change[:, :, :2] += torch.eye(2)
    grid = F.affine_grid(change, [len(pictures), 1, *pictures.shape[1:]], align_corners=False)
    return F.grid_sample(pictures.unsqueeze(1) + 1, grid, align_corners=False).squeeze(1) - 1


def main(arguments: Sequence[str]) -> int:
    folders = [one for one in arguments if one != "--now"]
    if len(folders) != 1:
        print(__doc__, file=sys.stderr)
        return 2
    folder = Path(folders[0])
    images, labels = training_letters(folder)
    print(f"{len(images):,} letters to learn from", flush=True)
    torch.manual_seed(SEED)
    drawer, evaluation, run = DiffusionTransformer(CONFIG), held_out(), History()
    for cycle, steps in enumerate(CYCLES):
        model, place = Averaged(drawer), folder / f"training-{cycle}"
        if "--now" in arguments:
            history = model.restore(place)
        else:
            history = train(
                model,
                styled(flow_batches(images, labels, batch_size=BATCH_SIZE, seed=SEED + cycle, shift=SHIFT)),
                steps=steps,
                learning_rate=LEARNING_RATE,
                warmup=WARMUP,
                seed=SEED + cycle,
                loss=loss,
                after_step=model.add,
                evaluate=lambda model: evaluate_loss(model, evaluation, measured_loss),
                evaluate_every=steps // EVALUATIONS,
                checkpoint=place,
                checkpoint_every=steps // POINTS,
                bar=lambda steps: tqdm(steps, mininterval=30),
            )
        run.evaluations += [(len(run.losses) + step, value) for step, value in history.evaluations]
        run.losses += history.losses
        run.seconds += history.seconds
        print(f"{len(run.losses)} of {sum(CYCLES)} steps: {run.seconds:.0f} s, {run.evaluations}", flush=True)
        if history.interrupted:
            return 1
        drawer = model.averaged().train()
        if len(history.losses) < steps:
            break
    describe(drawer.bfloat16().float().eval(), run, len(images), evaluation)
    return 0


def describe(drawer: DiffusionTransformer, run: History, letters: int, evaluation: list[tuple[Tensor, ...]]) -> None:
    """Write the model, as it is measured, and how it came to be."""
    measured = evaluate_loss(drawer, evaluation, flow_matching_loss)
    print(f"averaged and rounded: {measured:.4f}")
    state = {name: tensor.bfloat16().contiguous() for name, tensor in drawer.state_dict().items()}
    files = {
        "config.json": to_json(asdict(CONFIG)),
        "model.safetensors": save(state, metadata={"format": "pt"}),
    }
    length = sum(CYCLES) // (POINTS * len(CYCLES))
    files["about.json"] = to_json(
        {
            "licence": "the course's own, as its code; the typefaces' licences are in typefaces.json",
            "parameters": sum(parameter.numel() for parameter in drawer.parameters()),
            "letters": letters,
            "training": {
                "cycles": list(CYCLES),
                "steps": len(run.losses),
                "batch_size": BATCH_SIZE,
                "learning_rate": LEARNING_RATE,
                "warmup": WARMUP,
                "shift": SHIFT,
                "averaged_over": AVERAGED_OVER,
                "seed": SEED,
                "threads": torch.get_num_threads(),
                "seconds": round(run.seconds),
            },
            "training_losses": [
                [start + length, round(sum(run.losses[start : start + length]) / length, 4)]
                for start in range(0, len(run.losses) - length + 1, length)
            ],
            "held_out_losses": [[step, round(value, 4)] for step, value in run.evaluations],
            "held_out_loss": round(measured, 4),
            "sha256": {name: hashlib.sha256(content).hexdigest() for name, content in files.items()},
        }
    )
    for name, content in files.items():
        write_bytes(FOLDER / name, content)


def to_json(content: dict) -> bytes:
    text = json.dumps(content, indent=2, ensure_ascii=False)
    return (re.sub(r"\[\s+([\d.]+),\s+([\d.]+)\s+\]", r"[\1, \2]", text) + "\n").encode()  # a point a line


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
