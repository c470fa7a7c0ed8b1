"""Train the network that reads drawn letters; writes peft_lessons/models/letter_reader. Five minutes on two free cores.

    OMP_WAIT_POLICY=passive python -m tools.artifacts.train_letter_reader FOLDER

FOLDER is where tools/artifacts/make_letters.py left letters.safetensors. It learns to name the letter, and, from its 64
numbers of style, which of the 900 typefaces it is of; the last layer that does so is thrown away. Pictures are moved,
their ink thinned or thickened and some noise added, since drawings are not as clean as print. A letter is still itself
when it is larger, slanted or turned a little, so it is named after such a change, too; a style is not.
"""

import hashlib
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import save
from torch import Tensor, nn

from peft_lessons.files import write_bytes
from peft_lessons.models.diffusion import flow_batches
from peft_lessons.models.letter_reader import FOLDER, STYLE, LetterReader
from peft_lessons.models.letters import LETTERS
from peft_lessons.tasks import typeface, typeface_names
from peft_lessons.training import train
from tools.artifacts.train_letters import to_json, training_letters, warp

STEPS, BATCH_SIZE, LEARNING_RATE, SEED = 4000, 96, 2e-3, 0
SHIFT, NOISE, SHARPNESS = 2, 0.15, 16.0


class TypefaceReader(nn.Module):
    """The reader, and a direction of style for each typeface to learn from."""

    def __init__(self, typefaces: int) -> None:
        super().__init__()
        self.reader = LetterReader()
        self.typefaces = nn.Linear(STYLE, typefaces, bias=False)

    def forward(self, pictures: Tensor) -> tuple[Tensor, Tensor]:
        letters, styles = self.reader(pictures)
        return letters, SHARPNESS * styles @ F.normalize(self.typefaces.weight, dim=-1).T


def loss(model: nn.Module, pictures: Tensor, warped: Tensor, places: Tensor) -> Tensor:
    """Of letters, warped and as they are, and of typefaces; a place counts the letters of all typefaces in one line."""
    letters, typefaces = model(torch.cat((pictures, warped)))
    named = F.cross_entropy(letters, (places % len(LETTERS)).repeat(2))
    return named + F.cross_entropy(typefaces[: len(pictures)], places // len(LETTERS))


def batches(images: Tensor) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Endless batches of (pictures, the same warped, places)."""
    generator = torch.Generator().manual_seed(SEED)
    places = torch.arange(len(images))
    for pictures, chosen, noise, times in flow_batches(images, places, batch_size=BATCH_SIZE, seed=SEED, shift=SHIFT):
        weight = torch.randn(len(pictures), 1, 1, generator=generator) * 0.3  # how much thinner or thicker the ink is
        inked = (pictures + weight * (1 - pictures**2) + NOISE * times[:, None, None] * noise).clamp(-1, 1)
        yield inked, warp(inked, generator), chosen


@torch.no_grad()
def measured(reader: LetterReader) -> dict[str, float]:
    """On typefaces that it has not learnt from: letters read, and typefaces recognized by the mean of all others'."""
    faces = torch.stack([typeface(name) for name in typeface_names()])
    read = reader.read(faces.flatten(0, 1)) == torch.arange(len(LETTERS)).repeat(len(faces))
    styles = reader(faces.flatten(0, 1))[1].unflatten(0, faces.shape[:2])
    means = F.normalize(styles.sum(1, keepdim=True) - styles, dim=-1)  # for each letter, of the other 51
    nearest = torch.einsum("fls, gls -> flg", styles, means).argmax(-1)
    recognized = nearest == torch.arange(len(faces))[:, None]
    return {
        "letters_read": round(read.float().mean().item(), 4),
        "typefaces_recognized": round(recognized.float().mean().item(), 4),
    }


def main(arguments: Sequence[str]) -> int:
    if len(arguments) != 1:
        print(__doc__, file=sys.stderr)
        return 2
    images, _ = training_letters(Path(arguments[0]))
    torch.manual_seed(SEED)
    model = TypefaceReader(len(images) // len(LETTERS))
    history = train(model, batches(images), steps=STEPS, learning_rate=LEARNING_RATE, seed=SEED, loss=loss)
    reader = model.reader.bfloat16().float().eval()
    content = save({name: tensor.bfloat16().contiguous() for name, tensor in reader.state_dict().items()})
    about = {
        "licence": "the course's own, as its code; it has learnt from the typefaces of models/letters/typefaces.json",
        "parameters": sum(parameter.numel() for parameter in reader.parameters()),
        "training": {"steps": STEPS, "batch_size": BATCH_SIZE, "learning_rate": LEARNING_RATE, "seed": SEED},
        "seconds": round(history.seconds),
        "unseen_typefaces": measured(reader),
        "sha256": hashlib.sha256(content).hexdigest(),
    }
    print(about)
    write_bytes(FOLDER / "model.safetensors", content)
    write_bytes(FOLDER / "about.json", to_json(about))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
