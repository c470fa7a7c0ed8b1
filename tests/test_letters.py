"""The model that draws letters: its files, licences and scripts, and that adapters learn typefaces on it."""

import hashlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import matplotlib
import numpy as np
import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file

from peft_lessons import (
    adapters_disabled,
    data,
    load_adapter,
    load_adapters,
    merge,
    trainable_parameters,
    using,
)
from peft_lessons.models import (
    LETTERS,
    DiffusionConfig,
    DiffusionTransformer,
    draw,
    flow_evaluation,
    flow_matching_loss,
    letter_ids,
    letters,
    load_letters,
)
from peft_lessons.models.letters import FOLDER
from peft_lessons.tasks import LETTER_ADAPTERS, TRAINED_LETTERS, letters_of, typeface, typeface_names
from peft_lessons.training import evaluate_loss
from tools.artifacts import make_letters, train_letter_adapters, train_letters

ABOUT = json.loads((FOLDER / "about.json").read_text(encoding="utf-8"))
SEEN = json.loads((FOLDER / "typefaces.json").read_text(encoding="utf-8"))
FAMILIES = {row["family"]: row for row in reversed(data.typefaces())}


@pytest.fixture(scope="module")
def base() -> DiffusionTransformer:
    return load_letters()


# Files.


def test_it_has_at_most_two_and_a_half_million_parameters_in_under_five_megabytes(base: DiffusionTransformer) -> None:
    assert sum(parameter.numel() for parameter in base.parameters()) == ABOUT["parameters"] <= 2_500_000
    assert {parameter.dtype for parameter in base.parameters()} == {torch.float32} and not base.training
    stored = load_file(FOLDER / "model.safetensors")
    assert {tensor.dtype for tensor in stored.values()} == {torch.bfloat16}
    assert sum(file.stat().st_size for file in FOLDER.iterdir() if file.is_file()) < 5_000_000
    for folder in LETTER_ADAPTERS.values():
        assert sum(file.stat().st_size for file in folder.iterdir()) < 400_000


def test_letters_checksums() -> None:
    assert ABOUT["sha256"].keys() == {"config.json", "model.safetensors"}
    for name, expected in ABOUT["sha256"].items():
        assert hashlib.sha256((FOLDER / name).read_bytes()).hexdigest() == expected


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_damage_is_an_error_that_names_what_mends_it(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    folder = shutil.copytree(FOLDER, tmp_path / "letters")
    monkeypatch.setattr(letters, "FOLDER", folder)
    load_letters()
    content = bytearray((folder / name).read_bytes())
    content[len(content) // 2] ^= 1
    (folder / name).write_bytes(content)
    with pytest.raises(ValueError, match=rf"{name} is damaged.*\ngit checkout -- peft_lessons/models/letters"):
        load_letters()
    (folder / name).unlink()
    with pytest.raises(FileNotFoundError, match=rf"lacks {name}.*\ngit checkout"):
        load_letters()


def test_the_script_describes_this_model(base: DiffusionTransformer) -> None:
    assert base.config == train_letters.CONFIG
    about = ABOUT["training"]
    assert (
        about["steps"] <= sum(about["cycles"]) == sum(train_letters.CYCLES)
        and about["batch_size"] == train_letters.BATCH_SIZE
    )
    assert about["learning_rate"] == train_letters.LEARNING_RATE and about["seed"] == train_letters.SEED
    assert ABOUT["letters"] == 52 * sum(len(package["typefaces"]) for package in SEEN.values())


def test_letters_have_labels() -> None:
    assert len(LETTERS) == 52 and letter_ids(LETTERS).tolist() == list(range(52))
    assert letter_ids("").shape == (0,)
    with pytest.raises(ValueError, match=r"A–Z and a–z can be drawn, not ' ', '1', 'é'"):
        letter_ids("é a1")


# Typefaces and licences.


def test_every_typeface_is_of_a_package_whose_licence_allows_it() -> None:
    allowed = {package: licence for licence, packages in make_letters.PACKAGES.items() for package in packages}
    assert make_letters.PACKAGES.keys() == make_letters.LICENCES.keys()
    assert len(allowed) == sum(map(len, make_letters.PACKAGES.values())), "a package has one licence"
    for package, entry in SEEN.items():
        assert entry["licence"] == allowed[package] and entry["version"] and entry["typefaces"]
    for row in data.typefaces():
        assert row["licence"] == allowed[row["package"]]
    (entry,) = [entry for entry in data.manifest() if entry["name"] == "typefaces"]
    for row in data.typefaces():
        assert f"{row['family']}: {row['licence']}" in entry["licence"] and row["package"] in entry["source"]


@pytest.mark.parametrize(
    ("licence", "text"),
    [
        ("OFL-1.1", "License: GPL-2+\n This program is free software; you can redistribute it"),
        ("GPL with font exception", "under the terms of the GNU General Public License as published by the"),
        ("OFL-1.1", "License: CC-BY-SA-3\n THE WORK (AS DEFINED BELOW) IS PROVIDED"),
        ("MIT", "free for personal use"),
    ],
)
def test_another_licence_is_refused(licence: str, text: str) -> None:
    with pytest.raises(ValueError, match=r"fonts-x does not say what .* does: its letters are not used"):
        make_letters.check_licence("fonts-x", licence, text)


def test_a_licence_is_found_across_lines() -> None:
    text = "License: OFL-1.1\n The requirement for fonts to\n remain under this license does not\n .\n apply to any\n"
    text += " document created using the fonts"
    make_letters.check_licence("fonts-x", "OFL-1.1", text)


def test_whole_families_are_held_out() -> None:
    assert len(FAMILIES) >= 5 and "handwriting" in {row["kind"] for row in FAMILIES.values()}
    for row in data.typefaces():
        assert row["package"] not in SEEN
        assert not any(row["family"] in name for package in SEEN.values() for name in package["typefaces"])


def test_letters_are_pictures() -> None:
    assert typeface_names() == [row["name"] for row in data.typefaces()]
    for row in data.typefaces():
        assert list(row["letters"]) == list(LETTERS)
        assert all(
            len(digits) == 32 * 32 and set(digits) <= set("0123456789abcdef") for digits in row["letters"].values()
        )
        pictures = typeface(row["name"])
        assert pictures.shape == (52, 32, 32) and pictures.min() == -1 and pictures.max() == 1
        first = row["letters"]["A"]
        assert pictures[0, 16, 15].item() == pytest.approx(int(first[16 * 32 + 15], 16) / 7.5 - 1)
        lowest = [(pictures[LETTERS.index(letter)] > 0).any(1).nonzero().max().item() for letter in "AEHIM"]
        assert max(lowest) - min(lowest) <= 5, f"{row['name']}: on one baseline, as far as a hand keeps to one"
    with pytest.raises(ValueError, match=r"no typeface is called 'Arial'; there are dkg, "):
        typeface("Arial")


def test_letters_are_split_once_and_for_all() -> None:
    split = letters_of("dkg")
    assert len(TRAINED_LETTERS) == 19 and [len(part[1]) for part in split] == [19, 33]
    assert sorted(torch.cat((split.train[1], split.held_out[1])).tolist()) == list(range(52))
    assert torch.equal(split.train[0][0], typeface("dkg")[0])
    assert [len(part[1]) for part in letters_of("dkg", "Q")] == [1, 51]
    for wrong in ("", LETTERS):
        with pytest.raises(ValueError, match="some letters must be trained"):
            letters_of("dkg", wrong)


# How they are drawn.

DEJAVU = (Path(matplotlib.get_data_path()) / "fonts/ttf/DejaVuSans.ttf").read_bytes()


def test_a_font_is_drawn_at_one_scale_on_one_baseline() -> None:
    pictures = make_letters.rendered(DEJAVU)
    assert pictures.shape == (52, 32, 32) and pictures.dtype == np.uint8 and pictures.max() == 15
    ink = dict(zip(LETTERS, pictures > 7, strict=True))
    for letter in "HILTEFZxzi":
        assert ink[letter][22].any() and not ink[letter][23:].any(), letter
    assert ink["p"][28].any() and ink["l"][3].any()
    tall, low = (np.flatnonzero(ink[letter].any(1)).min() for letter in "Hx")
    assert 3 < low - tall < 8
    for letter in "HoM":  # in the middle
        columns = np.flatnonzero(ink[letter].any(0))
        assert abs(columns.min() + columns.max() - 31) <= 1


def test_a_font_without_letters_is_left_out() -> None:
    symbols = Path(matplotlib.get_data_path()) / "fonts/ttf/STIXSizThreeSymReg.ttf"
    assert make_letters.rendered(symbols.read_bytes()) is None
    with pytest.raises(OSError):
        make_letters.rendered(b"no font")


def faces(*letters: np.ndarray) -> list[make_letters.Typeface]:
    return [make_letters.Typeface(f"face {place}", "p", "f", one) for place, one in enumerate(letters)]


def test_doubles_are_left_out_also_those_of_held_out_typefaces() -> None:
    first = make_letters.rendered(DEJAVU)
    near, far = first.copy(), np.roll(first, 3, axis=2)
    near[:, 16, 16] ^= 1
    kept = make_letters.different(faces(first, near, far), [])
    assert [one.name for one in kept] == ["face 0", "face 2"]
    assert [one.name for one in make_letters.different(faces(first, near, far), faces(near))] == ["face 2"]


def test_what_is_no_letter_is_left_out() -> None:
    first = make_letters.rendered(DEJAVU)
    noise = np.random.default_rng(0).integers(0, 16, first.shape, dtype=np.uint8)
    kept = make_letters.legible(faces(first, np.roll(first, 1, axis=2), np.roll(first, 1, axis=1), noise))
    assert [one.name for one in kept] == ["face 0", "face 1", "face 2"]


# How it was trained.


@pytest.fixture
def tiny_training(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    """The training script on three typefaces and a model that takes moments."""
    monkeypatch.setattr(train_letters, "FOLDER", tmp_path / "model")
    monkeypatch.setattr(train_letters, "compiled", flow_matching_loss)
    (tmp_path / "model").mkdir()
    sizes = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    monkeypatch.setattr(train_letters, "CONFIG", DiffusionConfig(num_labels=52, patch_size=8, time_features=4, **sizes))
    for name, value in {"CYCLES": (8, 8), "BATCH_SIZE": 8, "POINTS": 4, "EVALUATIONS": 2}.items():
        monkeypatch.setattr(train_letters, name, value)
    pictures = [torch.round((typeface(name) + 1) * 7.5).byte() for name in typeface_names()[:3]]
    save_file({"letters": torch.stack(pictures)}, tmp_path / "letters.safetensors")
    yield tmp_path


def test_training_is_reproducible_and_goes_on_where_it_stopped(
    tiny_training: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, made = tiny_training, {}
    assert train_letters.main([str(folder)]) == 0
    made["whole"] = (folder / "model/model.safetensors").read_bytes()
    about = json.loads((folder / "model/about.json").read_text())
    assert [step for step, _ in about["training_losses"]] == [2, 4, 6, 8, 10, 12, 14, 16]
    assert about["held_out_losses"][0][0] == 0 and about["letters"] == 156
    for cycle in (0, 1):
        shutil.rmtree(folder / f"training-{cycle}")

    add = train_letters.Averaged.add

    def stopping(self: train_letters.Averaged, steps: int) -> None:
        if steps == 5:
            raise RuntimeError("the power went")
        add(self, steps)

    with monkeypatch.context() as patch:
        patch.setattr(train_letters.Averaged, "add", stopping)
        with pytest.raises(RuntimeError, match="the power went"):
            train_letters.main([str(folder)])
    assert [file.name for file in (folder / "training-0").iterdir()] != []
    assert train_letters.main([str(folder)]) == 0
    assert (folder / "model/model.safetensors").read_bytes() == made["whole"]
    assert train_letters.main([]) == 2

    (folder / "training-1/step-00000008.safetensors").unlink()
    assert train_letters.main([str(folder), "--now"]) == 0
    about = json.loads((folder / "model/about.json").read_text())
    assert about["training"]["steps"] == 14 and [step for step, _ in about["training_losses"]][-1] == 14
    assert (folder / "model/model.safetensors").read_bytes() != made["whole"]


def test_the_running_average() -> None:
    torch.manual_seed(0)
    model = train_letters.Averaged(DiffusionTransformer(DiffusionConfig(num_labels=2, num_hidden_layers=1)))
    with torch.no_grad():
        for parameter in model.model.parameters():
            parameter.fill_(1.0)
    for step in range(1, 6):
        model.add(step)
    averaged = model.averaged()
    assert all(0.9 < parameter.mean() <= 1 for parameter in averaged.parameters())
    model.add(10**6)  # late, a new value counts little
    with torch.no_grad():
        model.model.positions.fill_(251.0)
    before = model.averaged().positions.mean().item()
    model.add(10**6)
    assert model.averaged().positions.mean().item() == pytest.approx(before + (251 - before) / 250, rel=1e-4)


# What it can do.


@pytest.mark.slow
def test_its_loss_on_typefaces_that_it_has_not_seen_is_what_is_said(base: DiffusionTransformer) -> None:
    measured = evaluate_loss(base, train_letters.held_out(), flow_matching_loss)
    assert measured == pytest.approx(ABOUT["held_out_loss"], abs=2e-3)


def likeness(pictures: torch.Tensor) -> torch.Tensor:
    """How like each picture is to each letter's average over all held-out typefaces, (pictures, 52), from −1 to 1."""
    averages = torch.stack([typeface(name) for name in typeface_names()]).mean(0).flatten(1)
    return torch.corrcoef(torch.cat((pictures.flatten(1), averages)))[: len(pictures), len(pictures) :]


def test_it_draws_letters(base: DiffusionTransformer) -> None:
    """About every second drawing is most like the average of the letter that was asked for, of all 52 averages."""
    ids = letter_ids(LETTERS)
    found = likeness(draw(base, ids, steps=12, seed=1)).argmax(1)
    assert (found == ids).float().mean() > 0.4  # by chance 1 in 52


@pytest.mark.parametrize("name", LETTER_ADAPTERS)
def test_shipped_adapters_draw_letters_that_they_have_not_learnt(name: str, base: DiffusionTransformer) -> None:
    held_out = flow_evaluation(*letters_of(name).held_out, draws=4)
    model = load_letters()
    with torch.no_grad():
        _, labels, noise, times = held_out[1]
        plain = base(noise, times, labels)
        load_adapter(model, LETTER_ADAPTERS[name])
        adapted = model(noise, times, labels)
        with adapters_disabled(model):
            assert torch.equal(model(noise, times, labels), plain), "switched off, it is the base, bit for bit"
        assert torch.equal(model(noise, times, labels), adapted)
        theirs = PeftModel.from_pretrained(load_letters(), LETTER_ADAPTERS[name]).eval()
        torch.testing.assert_close(theirs(noise, times, labels), adapted, rtol=0, atol=1e-3)
    before, after = (evaluate_loss(one, held_out, flow_matching_loss) for one in (base, model))
    assert after < (1 - FALL) * before
    expected = draw(model, letter_ids("CfqZ"), steps=4)
    torch.testing.assert_close(draw(merge(model), letter_ids("CfqZ"), steps=4), expected, rtol=0, atol=1e-3)


def test_the_shipped_adapters_mix() -> None:
    model = load_adapters(load_letters(), LETTER_ADAPTERS)
    first, second, _ = LETTER_ADAPTERS
    with using(model, {first: 0.5, second: 0.5}):
        mixed = draw(model, letter_ids("Qy"), steps=4)
    for name in (first, second):
        with using(model, name):
            assert not torch.equal(draw(model, letter_ids("Qy"), steps=4), mixed)


STORED = json.loads(train_letter_adapters.STORED.read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", LETTER_ADAPTERS)
def test_the_stored_adaptations_begin_as_they_do_here(name: str) -> None:
    def stop_after_three(step: int) -> None:
        if step == 3:
            raise KeyboardInterrupt

    _, history = train_letter_adapters.adapt(name, after_step=stop_after_three)
    assert history.losses == pytest.approx(STORED[name]["losses"][:3], rel=1e-3)
    assert history.evaluations[0][1] == pytest.approx(STORED[name]["held_out_before"], rel=1e-3)
    assert len(STORED[name]["losses"]) == train_letter_adapters.STEPS
    assert STORED[name]["held_out_after"] < (1 - FALL) * STORED[name]["held_out_before"]


FALL = 0.1  # of the loss on letters that were not trained, at least


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("family", ["dkg", "Dancing Script", "Lobster", "Kristi", "Courier Prime"])
def test_the_loss_on_held_out_letters_of_a_family_falls(family: str, seed: int) -> None:
    """Thirty small steps on 19 letters; the recipe of the shipped adapters takes 150 of twice the size."""
    model, history = train_letter_adapters.adapt(FAMILIES[family]["name"], seed, steps=30, batch_size=16, draws=3)
    (_, before), (_, after) = history.evaluations
    assert all(parameter.isfinite().all() for parameter in trainable_parameters(model))
    assert after < (1 - FALL) * before
