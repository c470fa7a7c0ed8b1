"""The diffusion transformer: its formulas, start and steps, and that all that was made for the decoder works on it."""

import copy
import math
from dataclasses import replace
from itertools import islice

import peft
import pytest
import torch
from contract import perturb
from method_cases import CASES, NOT_FOLDABLE, READS_IDS, STARTS_ELSEWHERE
from torch import Tensor, nn

from peft_lessons import (
    LoRAConfig,
    adapter_state_dict,
    adapters_disabled,
    add_adapter,
    inject,
    load_adapter,
    load_adapters,
    merge,
    save_adapter,
    trainable_parameters,
    using,
)
from peft_lessons.accounting import TensorMemory
from peft_lessons.models import (
    DiffusionConfig,
    DiffusionTransformer,
    draw,
    draw_steps,
    euler_step,
    flow_batches,
    flow_evaluation,
    flow_matching_loss,
)
from peft_lessons.models.diffusion import Block, from_patches, time_waves, to_patches
from peft_lessons.training import evaluate_loss, train

SMALL = DiffusionConfig(
    num_labels=5,
    image_size=8,
    patch_size=2,
    hidden_size=12,
    intermediate_size=20,
    num_hidden_layers=2,
    num_attention_heads=3,
    time_features=6,
)
TARGETS = ("qkv", "proj", "up", "down", "modulation")
METHODS = {
    name: replace(case.config, **{"targets": TARGETS} | case.small | {"targets": TARGETS})
    for name, case in CASES.items()
    if name not in READS_IDS and name not in ("layer-norm", "ia3") and not name.startswith("oft")
} | {
    "ia3": replace(CASES["ia3"].config, targets=TARGETS, feedforward_targets=("down",)),
    "oft": replace(CASES["oft"].config, targets=TARGETS, block_size=4),
}
CONFIG = LoRAConfig(rank=3, alpha=5, targets=TARGETS)


def small(dtype: torch.dtype = torch.float32) -> DiffusionTransformer:
    """A model that is away from its start: a new one predicts zero, whatever its blocks do."""
    torch.manual_seed(0)
    model = DiffusionTransformer(SMALL)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.2 * torch.randn(parameter.shape)
    return model.to(dtype).eval()


def batch(dtype: torch.dtype = torch.float32, count: int = 4) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Pictures, labels, noise, times."""
    generator = torch.Generator().manual_seed(3)
    images, noise = (torch.randn(count, 8, 8, generator=generator, dtype=torch.float64).to(dtype) for _ in range(2))
    times = torch.rand(count, generator=generator, dtype=torch.float64).to(dtype)
    return images, torch.arange(count) % SMALL.num_labels, noise, times


def outputs(model: nn.Module) -> Tensor:
    images, labels, _, times = batch(next(model.parameters()).dtype)
    with torch.no_grad():
        return model(images, times, labels)


# Formulas.


def test_patches_go_there_and_back() -> None:
    images = torch.arange(2 * 8 * 8).view(2, 8, 8)
    patches = to_patches(images, 2)
    assert patches.shape == (2, 16, 4)
    assert patches[0, 5].tolist() == [18, 19, 26, 27], "second row of patches, second column"
    assert torch.equal(from_patches(patches, 2), images)


def test_waves_of_the_time() -> None:
    waves = time_waves(torch.tensor([0.0, 0.3]), 6)
    assert waves[0].tolist() == [1, 1, 1, 0, 0, 0]
    angles = [300 * 10_000 ** (-i / 3) for i in range(3)]
    expected = [*map(math.cos, angles), *map(math.sin, angles)]
    torch.testing.assert_close(waves[1], torch.tensor(expected), atol=1e-4, rtol=0)


def test_the_loss_is_its_formula() -> None:
    model = small(torch.float64)
    images, labels, noise, times = batch(torch.float64)
    total = 0.0
    for x, label, e, t in zip(images, labels, noise, times, strict=True):
        velocity = model(((1 - t) * e + t * x)[None], t[None], label[None])[0]
        total += (velocity - (x - e)).square().mean().item()
    assert flow_matching_loss(model, images, labels, noise, times).item() == pytest.approx(total / 4, rel=1e-6)


def in_double(model: DiffusionTransformer, parts: tuple[Tensor, ...]) -> Tensor:
    """The loss with nothing rounded to fp32, which `flow_matching_loss` does to what a model in bf16 says."""
    images, labels, noise, times = parts
    between = (1 - times)[:, None, None] * noise + times[:, None, None] * images
    return (model(between, times, labels) - (images - noise)).square().mean()


def test_the_gradient_is_that_of_finite_differences_in_float64() -> None:
    """Along a random direction for each parameter: (loss(θ + h d) − loss(θ − h d)) / 2h = ∇loss · d."""
    model, parts = small(torch.float64), batch(torch.float64)
    in_double(model, parts).backward()
    generator, h = torch.Generator().manual_seed(1), 1e-6
    for name, parameter in model.named_parameters():
        direction = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        around = []
        for sign in (1, -1):
            with torch.no_grad():
                parameter += sign * h * direction
                around.append(in_double(model, parts).item())
                parameter -= sign * h * direction
        expected = (around[0] - around[1]) / (2 * h)
        assert (parameter.grad * direction).sum().item() == pytest.approx(expected, rel=1e-5, abs=1e-8), name


def test_the_loss_s_gradient_in_fp32_is_that_in_float64() -> None:
    single, double = small(), small(torch.float64)
    flow_matching_loss(single, *batch()).backward()
    in_double(double, batch(torch.float64)).backward()
    for (name, one), other in zip(single.named_parameters(), double.parameters(), strict=True):
        scale = other.grad.abs().max()
        torch.testing.assert_close(one.grad.double(), other.grad, rtol=0, atol=2e-5 * scale.item(), msg=name)


# The start.


def test_a_new_block_is_the_identity_and_a_new_model_says_zero() -> None:
    torch.manual_seed(0)
    model = DiffusionTransformer(SMALL)
    x, condition = torch.randn(2, 16, 12), torch.randn(2, 1, 12)
    for block in model.layers:
        assert isinstance(block, Block) and torch.equal(block(x, condition), x)
    images, labels, noise, times = batch()
    assert torch.equal(model(images, times, labels), torch.zeros_like(images))
    loss = flow_matching_loss(model, images, labels, noise, times)
    torch.testing.assert_close(loss, (images - noise).square().mean())
    loss.backward()
    moved = {name for name, parameter in model.named_parameters() if parameter.grad.abs().sum() > 0}
    assert moved == {"patch_out.weight", "patch_out.bias"}


def test_time_and_label_are_seen() -> None:
    model, (images, labels, _, times) = small(), batch()
    said = model(images, times, labels)
    assert (model(images, times / 2, labels) - said).abs().max() > 1e-3
    assert (model(images, times, (labels + 1) % 5) - said).abs().max() > 1e-3


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"image_size": 9}, "9 pixels do not split into patches of 2"),
        ({"num_attention_heads": 5}, "hidden_size 12 does not split into 5 heads"),
        ({"time_features": 7}, "time_features must be even"),
    ],
)
def test_sizes_that_do_not_fit(change: dict, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        replace(SMALL, **change)


def test_inputs_that_do_not_fit() -> None:
    model, (images, labels, _, times) = small(), batch()
    with pytest.raises(ValueError, match=r"pictures must be \(batch, 8, 8\); got shape \(4, 8, 7\)"):
        model(images[:, :, :7], times, labels)
    with pytest.raises(ValueError, match="labels go from 0 to 7; this model knows 0 to 4"):
        model(images, times, torch.tensor([0, 7, 1, 1]))
    with pytest.raises(ValueError, match="steps must be at least 1, got 0"):
        draw(model, labels, steps=0)
    state = dict(model.state_dict())
    state.pop("positions")
    with pytest.raises(ValueError, match=r"(?s)do not fit this model.*positions"):
        DiffusionTransformer.from_tensors(SMALL, state)


# Steps.


class Growth(nn.Module):
    """v = x: the exact solution is e^t x, and n Euler steps give (1 + 1/n)^n x."""

    config = SMALL

    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Parameter(torch.ones(()))

    def forward(self, images: Tensor, times: Tensor, labels: Tensor) -> Tensor:
        return self.one * images


class Line(Growth):
    """v = (1 − x) / (1 − t): straight lines to 1, which Euler follows without error, in however many steps."""

    def forward(self, images: Tensor, times: Tensor, labels: Tensor) -> Tensor:
        return (1 - images) / (1 - times[:, None, None])


@pytest.mark.parametrize("steps", [1, 2, 10])
def test_euler_steps_are_the_closed_form(steps: int) -> None:
    labels = torch.tensor([0, 1])
    first, *_, last = draw_steps(Growth(), labels, steps=steps, seed=4)
    torch.testing.assert_close(last, (1 + 1 / steps) ** steps * first)
    assert torch.equal(last, draw(Growth(), labels, steps=steps, seed=4))
    torch.testing.assert_close(draw(Line(), labels, steps=steps), torch.ones(2, 8, 8))
    halves = list(draw_steps(Line(), labels, steps=2, seed=4))
    torch.testing.assert_close(halves[1], (halves[0] + 1) / 2)
    assert len(halves) == 3


def test_a_step_is_one_call_of_the_model() -> None:
    model, (images, labels, _, _) = small(), batch()
    with torch.no_grad():
        step = euler_step(model, images, labels, 0.25, 0.125)
        torch.testing.assert_close(step, images + 0.125 * model(images, torch.full((4,), 0.25), labels))


def test_drawing_needs_no_gradients_and_the_seed_fixes_it() -> None:
    model, labels = small(), torch.tensor([0, 1])
    first = draw(model, labels, steps=3, seed=1)
    assert not first.requires_grad
    assert torch.equal(first, draw(model, labels, steps=3, seed=1))
    assert not torch.equal(first, draw(model, labels, steps=3, seed=2))


# Batches.


def test_batches_are_the_same_for_a_seed_and_keep_pictures_with_their_labels() -> None:
    images = torch.arange(5.0)[:, None, None].expand(5, 8, 8)
    made, again = (flow_batches(images, torch.arange(5), batch_size=6, seed=2) for _ in range(2))
    for _ in range(3):
        pictures, labels, noise, times = next(made)
        assert all(map(torch.equal, next(again), (pictures, labels, noise, times)))
        assert torch.equal(pictures[:, 3, 3], labels.float())
        assert noise.shape == (6, 8, 8) and (times > 0).all() and (times < 1).all()


def test_a_shift_moves_a_picture_by_whole_pixels_and_fills_with_paper() -> None:
    picture = torch.full((1, 8, 8), -1.0)
    picture[0, 3, 4] = 1
    found = set()
    batches = flow_batches(picture, torch.tensor([0]), batch_size=64, seed=0, shift=1)
    for pictures, *_ in islice(batches, 2):
        assert torch.equal(pictures.sum((1, 2)), torch.full((64,), -62.0))
        found |= {tuple(place) for place in (pictures == 1).nonzero()[:, 1:].tolist()}
    assert found == {(row, column) for row in (2, 3, 4) for column in (3, 4, 5)}


def test_evaluation_has_every_picture_at_early_and_late_times() -> None:
    images, labels = torch.randn(3, 8, 8), torch.arange(3)
    batches = flow_evaluation(images, labels, draws=4)
    assert all(torch.equal(pictures, images) and torch.equal(those, labels) for pictures, those, *_ in batches)
    times = torch.stack([times[0] for *_, times in batches])
    assert (times.diff() > 0).all()
    torch.testing.assert_close(times + times.flip(0), torch.ones(4))
    assert len({noise.sum().item() for _, _, noise, _ in batches}) == 4


# Adapters: what was written for the decoder, unchanged.


def adapted(method: str) -> DiffusionTransformer:
    torch.manual_seed(7)
    return inject(small(), METHODS[method])


@pytest.mark.parametrize("method", METHODS)
def test_every_method_starts_as_the_base_trains_alone_is_switched_off_and_merges(method: str) -> None:
    plain, model = outputs(small()), adapted(method)
    assert torch.equal(outputs(model), plain) == (method not in STARTS_ELSEWHERE)
    perturb(model)
    flow_matching_loss(model, *batch()).backward()
    own = adapter_state_dict(model)
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            assert name in own
    assert any(parameter.grad.abs().sum() > 0 for parameter in trainable_parameters(model))
    changed = outputs(model)
    assert (changed - plain).abs().max() > 1e-3
    with adapters_disabled(model):
        if method != "loftq":
            assert torch.equal(outputs(model), plain)
    assert torch.equal(outputs(model), changed)
    if method not in NOT_FOLDABLE:
        torch.testing.assert_close(outputs(merge(model)), changed, rtol=0, atol=1e-4 * changed.abs().max().item())


@pytest.mark.parametrize("method", ["lora", "dora", "ia3", "oft"])
def test_files(method: str, tmp_path) -> None:
    model = perturb(adapted(method))
    folder = save_adapter(model, METHODS[method], tmp_path)
    assert torch.equal(outputs(load_adapter(small(), folder)), outputs(model))


def test_peft_reads_our_files_and_we_read_pefts(tmp_path) -> None:
    model = perturb(inject(small(), CONFIG))
    folder = save_adapter(model, CONFIG, tmp_path / "ours")
    theirs = peft.PeftModel.from_pretrained(small(), folder).eval()
    torch.testing.assert_close(outputs(theirs), outputs(model), rtol=0, atol=1e-5)
    config = peft.LoraConfig(r=3, lora_alpha=5, target_modules=list(TARGETS), init_lora_weights=False)
    theirs = peft.get_peft_model(small(), config).eval()
    theirs.save_pretrained(tmp_path / "theirs")
    ours = load_adapter(small(), tmp_path / "theirs")
    torch.testing.assert_close(outputs(ours), outputs(theirs), rtol=0, atol=1e-5)


def test_several_adapters_one_each_for_rows_of_a_batch_and_mixed(tmp_path) -> None:
    folders = {}
    for name, seed in (("one", 1), ("other", 2)):
        torch.manual_seed(seed)
        model = inject(small(), CONFIG)
        with torch.no_grad():
            for parameter in trainable_parameters(model):
                parameter.normal_(std=0.3)
        folders[name] = save_adapter(model, CONFIG, tmp_path / name)
    alone = {name: outputs(load_adapter(small(), folder)) for name, folder in folders.items()}
    model = load_adapters(small(), folders)
    for name in folders:
        with using(model, name):
            torch.testing.assert_close(outputs(model), alone[name])
    with using(model, ["one", None, "other", "one"]):
        mixed = outputs(model)
    base = outputs(small())
    for row, of in enumerate((alone["one"], base, alone["other"], alone["one"])):
        torch.testing.assert_close(mixed[row], of[row])
    with using(model, {"one": 0.5, "other": 0.5}):
        assert (outputs(model) - base).abs().max() > 1e-3
    assert add_adapter(copy.deepcopy(model), "third", CONFIG) is not None


def test_a_modulation_alone_can_be_adapted() -> None:
    model = inject(small(), LoRAConfig(rank=2, targets=("modulation",)))
    names = {name.rpartition(".")[0] for name in adapter_state_dict(model)}
    assert names == {"layers.0.modulation", "layers.1.modulation", "modulation"}


def test_memory_is_counted() -> None:
    model, parts = inject(small(), CONFIG), batch()
    with TensorMemory(model) as memory:
        flow_matching_loss(model, *parts).backward()
    weights = sum(4 * parameter.numel() for parameter in model.parameters())
    assert memory.peak > memory.now >= weights + sum(4 * p.numel() for p in trainable_parameters(model))


def test_it_learns_and_the_training_loop_can_be_stopped(tmp_path) -> None:
    """Three pictures by heart, through `train`: resumed half-way, the weights are those of a run that never stopped."""
    images = torch.randn(3, 8, 8, generator=torch.Generator().manual_seed(0)).sign()
    measured = flow_evaluation(images, torch.arange(3), draws=4)

    class StopError(Exception):
        pass

    def run(stop_at: int | None = None, folder=None) -> tuple[DiffusionTransformer, list[float]]:
        torch.manual_seed(0)
        model = DiffusionTransformer(SMALL)

        def maybe_stop(step: int) -> None:
            if step == stop_at:
                raise StopError

        batches = flow_batches(images, torch.arange(3), batch_size=8, seed=0)
        history = train(
            model,
            batches,
            steps=60,
            learning_rate=1e-2,
            loss=flow_matching_loss,
            checkpoint=folder,
            checkpoint_every=20,
            after_step=maybe_stop,
        )
        return model, history.losses

    model, losses = run()
    with pytest.raises(StopError):
        run(45, tmp_path)
    again, resumed = run(None, tmp_path)
    assert resumed == losses
    for one, other in zip(model.parameters(), again.parameters(), strict=True):
        assert torch.equal(one, other)
    untrained = evaluate_loss(DiffusionTransformer(SMALL), measured, flow_matching_loss)
    assert evaluate_loss(model, measured, flow_matching_loss) < 0.8 * untrained
