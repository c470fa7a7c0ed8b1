"""The network that judges drawings: what it reads of typefaces that it has not learnt from, and of no letter."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from peft_lessons.models import letter_reader
from peft_lessons.models.letter_reader import LetterReader, load_letter_reader
from peft_lessons.models.letters import LETTERS
from peft_lessons.tasks import typeface, typeface_names
from tools.artifacts import train_letter_reader

ABOUT = json.loads((letter_reader.FOLDER / "about.json").read_text(encoding="utf-8"))
FACES = {name: typeface(name) for name in typeface_names()}


@pytest.fixture(scope="module")
def reader() -> LetterReader:
    return load_letter_reader()


def test_it_reads_typefaces_that_it_has_not_learnt_from_as_well_as_is_said(reader: LetterReader) -> None:
    """Both shares count 520 pictures, of which one or two may fall to the other side on another processor."""
    measured = train_letter_reader.measured(reader)
    assert measured == pytest.approx(ABOUT["unseen_typefaces"], abs=3 / 520)
    assert measured["letters_read"] > 0.5 and measured["typefaces_recognized"] > 0.5, "chance: .02 and .1"


def test_noise_has_no_letter_and_no_style(reader: LetterReader) -> None:
    noise = torch.randn(520, 32, 32, generator=torch.Generator().manual_seed(0)).clamp(-1, 1)
    labels = torch.arange(len(LETTERS)).repeat(10)
    assert (reader.read(noise) == labels).float().mean() < 0.06
    names = [name for name in FACES for _ in LETTERS]
    found = reader.recognize(noise, FACES)
    assert sum(mine == name for mine, name in zip(found, names, strict=True)) / len(names) < 0.2


def test_styles_have_length_one_and_do_not_depend_on_the_batch(reader: LetterReader) -> None:
    pictures = FACES["dkg"]
    letters, styles = reader(pictures)
    assert letters.shape == (52, 52) and styles.shape == (52, letter_reader.STYLE)
    torch.testing.assert_close(styles.norm(dim=-1), torch.ones(52))
    torch.testing.assert_close(reader(pictures[3:4])[1], styles[3:4], rtol=0, atol=1e-5)  # sums in another order


def test_a_damaged_file_is_named_with_its_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "reader"
    shutil.copytree(letter_reader.FOLDER, folder)
    monkeypatch.setattr(letter_reader, "FOLDER", folder)
    content = bytearray((folder / "model.safetensors").read_bytes())
    content[-1] ^= 1
    (folder / "model.safetensors").write_bytes(content)
    with pytest.raises(ValueError, match=r"model\.safetensors is damaged.*\ngit checkout -- .*letter_reader"):
        load_letter_reader()
    (folder / "model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"lacks model\.safetensors.*\ngit checkout"):
        load_letter_reader()


def test_the_script_makes_such_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Twelve steps on three typefaces: twice the same, and already less lost than at the start."""
    (tmp_path / "reader").mkdir()
    for module in (train_letter_reader, letter_reader):
        monkeypatch.setattr(module, "FOLDER", tmp_path / "reader")
    monkeypatch.setattr(train_letter_reader, "STEPS", 12)
    monkeypatch.setattr(train_letter_reader, "BATCH_SIZE", 32)
    pictures = [torch.round((face + 1) * 7.5).byte() for face in list(FACES.values())[:3]]
    save_file({"letters": torch.stack(pictures)}, tmp_path / "letters.safetensors")
    made = []
    for _ in range(2):
        assert train_letter_reader.main([str(tmp_path)]) == 0
        made.append((tmp_path / "reader/model.safetensors").read_bytes())
    assert made[0] == made[1]
    assert load_letter_reader().read(FACES["dkg"]).shape == (52,)
    assert train_letter_reader.main([]) == 2
