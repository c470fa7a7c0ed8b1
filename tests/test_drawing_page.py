"""The page that learns a handwriting computes what the package computes: its engine runs in node, the package is the
oracle."""

import json
from itertools import islice

import pytest
import torch
from javascript import node_answer
from peft import PeftModel
from references import multiply_adds

from peft_lessons import inject, load_adapter
from peft_lessons.adapters import named_adapters
from peft_lessons.models import draw, flow_batches, flow_evaluation, flow_matching_loss, letter_ids, load_letters
from peft_lessons.models.letters import FOLDER
from peft_lessons.tasks import LETTER_LORA, letters_of
from peft_lessons.training import evaluate_loss, train
from tools.site import build_playground

ENGINE = build_playground.HERE / "engine"
SETTINGS = {"rank": 8, "alpha": 16, **build_playground.HAND, "steps": 100, "seed": 0}
TYPEFACE = "Rufscript"


@pytest.fixture
def answers(tmp_path):
    """What the engine answers to a list of jobs."""

    def ask(*jobs, megabytes=100):
        pictures, labels = letters_of(TYPEFACE).train
        known = {
            "jobs": jobs,
            "config": json.loads((FOLDER / "config.json").read_text(encoding="utf-8")),
            "weights": str(FOLDER / "model.safetensors"),
            "codes": [str(ENGINE / name) for name in build_playground.CODES],
            "pictures": pictures.flatten(1).tolist(),
            "labels": labels.tolist(),
            "megabytes": megabytes,
        }
        return node_answer("drawing.js", known, tmp_path)

    return ask


def prepared():
    """The package's model at the start of a run."""
    torch.manual_seed(SETTINGS["seed"])
    return inject(load_letters(), LETTER_LORA)


def batches(size=SETTINGS["batch"], shift=1):
    return flow_batches(*letters_of(TYPEFACE).train, batch_size=size, seed=SETTINGS["seed"], shift=shift)


def in_order(model):
    """What trains, A before B, in the order in which A was drawn: by target, then from the first block to the last."""
    layers = [(name.split(".")[-1], layer) for name, layer in named_adapters(model)]
    return [
        p
        for target in LETTER_LORA.targets
        for name, layer in layers
        if name == target
        for p in (layer.lora_A, layer.lora_B)
    ]


def test_velocities_are_the_packages(answers):
    """Those at the very beginning and the very end among them, to 1e-4."""
    images, times, labels = torch.randn(5, 32, 32), torch.tensor([0, 0.03, 0.5, 0.97, 1]), letter_ids("AmzQy")
    job = {"what": "velocities", "settings": SETTINGS, "images": images.flatten().tolist()}
    (found,) = answers(job | {"times": times.tolist(), "labels": labels.tolist()})
    with torch.no_grad():
        expected = load_letters()(images, times, labels)
    torch.testing.assert_close(torch.tensor(found), expected.flatten(), atol=1e-4, rtol=0)


def test_gradients_are_autograds(answers):
    """Each A and B to 1e-5 of its gradient's norm: sums over 1,024 tokens are rounded in another order, some 1e-6."""
    model = prepared()
    for layer in (layer for _, layer in named_adapters(model)):
        torch.nn.init.normal_(layer.lora_B, std=0.02)  # where B is zero A has no gradient
    images, labels, noise, times = batch = next(batches())
    loss = flow_matching_loss(model, *batch)
    loss.backward()
    parameters = in_order(model)
    handed = {"images": images.flatten().tolist(), "labels": labels.tolist(), "noise": noise.flatten().tolist()}
    job = {"what": "gradients", "settings": SETTINGS, "batch": handed | {"times": times.tolist()}}
    (found,) = answers(job | {"values": [p.flatten().tolist() for p in parameters]})
    assert found["loss"] == pytest.approx(loss.item(), rel=1e-5)
    assert len(found["gradients"]) == len(parameters) == 52
    for mine, parameter in zip(found["gradients"], parameters, strict=True):
        miss = torch.tensor(mine) - parameter.grad.flatten()
        assert miss.norm() < 1e-5 * parameter.grad.norm()


def test_batches_are_the_packages(answers):
    (found,) = answers({"what": "batches", "settings": SETTINGS, "count": 3})
    for mine, (images, labels, noise, times) in zip(found, islice(batches(), 3), strict=True):
        assert mine["labels"] == labels.tolist()
        for name, expected in {"images": images, "noise": noise, "times": times}.items():
            torch.testing.assert_close(torch.tensor(mine[name]), expected.flatten(), atol=1e-5, rtol=0)


def check_run(found, settings):
    """Compare a run of the engine with the package's: its start, each loss, and what the trained model draws."""
    model = prepared()
    parameters = in_order(model)
    assert found["trained"] == sum(parameter.numel() for parameter in parameters)
    for mine, parameter in zip(found["start"], parameters, strict=True):
        torch.testing.assert_close(torch.tensor(mine).float(), parameter.flatten(), atol=1e-7, rtol=0)
    history = train(
        model,
        batches(settings["batch"]),
        steps=settings["steps"],
        learning_rate=settings["rate"],
        seed=settings["seed"],
        loss=flow_matching_loss,
    )
    torch.testing.assert_close(torch.tensor(found["losses"]), torch.tensor(history.losses), atol=0, rtol=1e-5)
    return model


def training(settings, **more):
    return {
        "what": "train",
        "settings": settings,
        "asked": letter_ids("Qz").tolist(),
        "steps": 8,
        "strengths": [],
        **more,
    }


@pytest.mark.slow
def test_a_hundred_steps_are_the_packages(answers):
    (found,) = answers(training(SETTINGS))
    check_run(found, SETTINGS)


def test_a_few_steps_are_the_packages_and_what_it_draws_is(answers, tmp_path):
    """And the downloads draw it, in the package and in peft."""
    settings = SETTINGS | {"steps": 6, "batch": 16}
    text = "QzAbKww"  # more than the engine draws together
    job = training(settings, folder=str(tmp_path), strengths=[0, 1]) | {"asked": letter_ids(text).tolist()}
    (found,) = answers(job)
    mine = [torch.tensor(drawing).view(-1, 32, 32) for drawing in found["drawings"]]
    models = [load_letters(), check_run(found, settings), load_adapter(load_letters(), tmp_path)]
    models.append(PeftModel.from_pretrained(load_letters(), tmp_path).base_model.model)
    for model, drawing in zip(models, [mine[0], mine[1], mine[1], mine[1]], strict=True):
        torch.testing.assert_close(draw(model, letter_ids(text), steps=8), drawing, atol=1e-3, rtol=0)
    assert (mine[0] - mine[1]).abs().max() > 0.1


def test_a_step_multiplies_as_much_as_torchs(answers):
    """How long that takes differs from machine to machine; `make bench` measures it."""
    (found,) = answers(training(SETTINGS | {"steps": 1}))
    model = prepared()
    batch = next(batches())
    assert found["work"] == multiply_adds(lambda: flow_matching_loss(model, *batch).backward())


@pytest.mark.slow
def test_a_minute_is_enough(answers, tmp_path):
    """With the page's settings the loss on letters never seen falls by at least half as much as by the package's."""
    settings = SETTINGS | build_playground.HAND
    answers(training(settings, folder=str(tmp_path)))
    held_out = flow_evaluation(*letters_of(TYPEFACE).held_out)
    models = load_letters(), load_adapter(load_letters(), tmp_path)
    before, after = (evaluate_loss(model, held_out, flow_matching_loss) for model in models)
    stored = json.loads((FOLDER / "adaptations.json").read_text(encoding="utf-8"))[TYPEFACE]
    print(f"{before:.4f} to {after:.4f}; the package's: {stored['held_out_before']} to {stored['held_out_after']}")
    assert before - after > 0.5 * (stored["held_out_before"] - stored["held_out_after"])
