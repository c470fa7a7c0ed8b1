"""A checkup: faults that raise no error and look like success, each told in words.

Before training, `checkup(model, config, batches)` looks at what is to be trained; afterwards, and wherever an adapter
is used, `checkup(model, folder, batches)` looks at what the model computes. A check is a function that says what is
suspicious, or nothing; CHECKS lists them all.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path

import torch
from torch import Tensor, nn

from peft_lessons.adapters import (
    AdapterConfig,
    AdapterLayer,
    adapters_disabled,
    named_adapters,
    trainable_parameters,
)
from peft_lessons.checkpoints.files import StoredAdapter, read_adapter
from peft_lessons.checkpoints.gguf import base_shape
from peft_lessons.checkpoints.schema import PREFIX
from peft_lessons.checkpoints.weights import plain_name, tensor_places
from peft_lessons.memory import available_memory
from peft_lessons.models.decoder import Decoder
from peft_lessons.targets import own_name, quoted, unwrapped
from peft_lessons.training import IGNORED, AnyBatch, evaluate_loss, language_model_loss

BATCHES = 8  # that are looked at
STEPS = 100  # of training, when nobody says how many
SHARED = 3  # tokens with which all prompts begin: those of a chat template
MOST = 0.9  # what counts as nearly all
SLOW, FAST = 0.01, 2.0  # of the loss: what all steps together should lower it by, and one step may leave
PARTS = ("input_ids", "labels")
SIZES = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")


@dataclass(frozen=True)
class Suspicion:
    """What one check of `checkup` found: the check's name, and what it says.

    Examples:
        >>> from peft_lessons import Suspicion
        >>> print(Suspicion("changes_nothing", "the adapter changes nothing"))
        the adapter changes nothing
    """

    check: str
    says: str

    def __str__(self) -> str:
        return self.says


def checkup(
    model: nn.Module,
    adapter: AdapterConfig | str | Path | None = None,
    batches: Iterable[AnyBatch] = (),
    *,
    learning_rate: float | None = None,
    steps: int = STEPS,
    eos_id: int | None = None,
) -> list[Suspicion]:
    """Say what is suspicious about a model, its adapter and its data; nothing is changed, and a sound run gives [].

    `adapter` is the config before training, or the folder of one that is trained. `batches` are as for `train`; the
    first eight are looked at. With `learning_rate` and `steps` the step that they lead to is judged, too, and with
    `eos_id` whether an answer's end is learnt, where the model does not name its end token.

    Raises:
        FileNotFoundError: for a folder without an adapter.
        TypeError: for an adapter that is neither a config nor a folder.
        ValueError: for an adapter that cannot be read, and for batches that no language model takes.

    Examples:
        >>> from peft_lessons import LoRAConfig, checkup
        >>> from peft_lessons.models import load_tiny_gpt
        >>> model, tokenizer = load_tiny_gpt()
        >>> for suspicion in checkup(model, LoRAConfig(rank=2)):
        ...     print(suspicion)
        the model has no adapter and computes as its base: inject(model, config), or load_adapter(model, folder)
    """
    stored = read_adapter(adapter) if isinstance(adapter, str | Path) else None
    config = stored.config if stored else adapter
    if not isinstance(config, AdapterConfig | None):
        raise TypeError(f"adapter is a config or a trained one's folder, got {adapter!r:.80}")
    looked_at = [_by_name(batch) for batch in islice(batches, BATCHES)]
    case = Case(model, config, stored, looked_at, learning_rate, steps, eos_id)
    with _left_as_it_was(model):
        found = [(check.__name__, check(case)) for check in CHECKS]
    return [Suspicion(name, says) for name, says in found if says]


def _by_name(batch: AnyBatch) -> Mapping[str, Tensor]:
    """Return a batch by its parts' names. Raises ValueError for one without ids and labels of one shape."""
    named = batch if isinstance(batch, Mapping) else dict(zip((*PARTS, "a third part"), batch, strict=False))
    whole = [p for p in map(named.get, PARTS) if isinstance(p, Tensor) and p.ndim == 2 and not p.is_floating_point()]
    if len(whole) < len(PARTS) or whole[0].shape != whole[1].shape or "a third part" in named:
        given = ", ".join(f"{name} {_form(part)}" for name, part in named.items()) or "nothing"
        raise ValueError(f"a batch has input_ids and labels, whole numbers of one shape (batch, tokens); got {given}")
    return named


def _form(part: object) -> str:
    return f"{part.dtype} {tuple(part.shape)}" if isinstance(part, Tensor) else type(part).__name__


@dataclass
class Case:
    """What the checks look at. Without a `stored` adapter training is still to come."""

    model: nn.Module
    config: AdapterConfig | None
    stored: StoredAdapter | None
    batches: list[Mapping[str, Tensor]]
    learning_rate: float | None
    steps: int
    eos_id: int | None

    @cached_property
    def layers(self) -> dict[str, AdapterLayer]:
        return {own_name(self.model, name): layer for name, layer in named_adapters(self.model)}

    @cached_property
    def rows(self) -> list["Row"]:
        """Every example: its tokens, labels and mask (tokens,)."""
        found = []
        for batch in self.batches:
            mask = batch.get("attention_mask")
            for i, (ids, labels) in enumerate(zip(batch["input_ids"], batch["labels"], strict=True)):
                found.append(Row(ids.cpu(), labels.cpu(), None if mask is None else mask[i].cpu()))
        return found

    @property
    def can_compare(self) -> bool:
        """Whether a trained adapter is on, and there is something to try it on."""
        on = any(layer.enabled for layer in self.layers.values())
        return self.stored is not None and on and bool(self.batches)

    @cached_property
    def loss(self) -> float:
        """Of all batches, in nats a token."""
        return evaluate_loss(self.model, self.batches)

    @cached_property
    def base_loss(self) -> float:
        """The same with the adapters off."""
        with adapters_disabled(self.model):
            return evaluate_loss(self.model, self.batches)

    @cached_property
    def gradients(self) -> dict[str, Tensor | None]:
        """Of the first batch's loss to all that trains; None where none arrives."""
        trained = {name: p for name, p in self.model.named_parameters() if p.requires_grad}
        with torch.enable_grad():
            loss = self.first_loss()
            if not trained or not loss.requires_grad:
                return dict.fromkeys(trained)
            found = torch.autograd.grad(loss, list(trained.values()), allow_unused=True)
        return dict(zip(trained, found, strict=True))

    def first_loss(self) -> Tensor:
        """Of the first batch, without dropout."""
        self.model.eval()
        return language_model_loss(self.model, **self.batches[0])


@dataclass(frozen=True)
class Row:
    ids: Tensor
    labels: Tensor
    mask: Tensor | None

    @property
    def shown(self) -> "Row":
        """The same without what the mask hides."""
        return self if self.mask is None else Row(self.ids[self.mask > 0], self.labels[self.mask > 0], None)

    @property
    def scored(self) -> Tensor:
        """Where a label counts: not the first, which nothing predicts."""
        return (self.labels != IGNORED).logical_and(torch.arange(len(self.labels)) > 0)

    @property
    def has_prompt(self) -> bool:
        """Whether the start is not scored, as in examples of prompt and answer."""
        return len(self.labels) > 1 and bool(self.labels[1] == IGNORED) and bool(self.scored.any())


@contextmanager
def _left_as_it_was(model: nn.Module) -> Iterator[None]:
    """Put each module's mode back in the end."""
    modes = {module: module.training for module in model.modules()}
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training


# ------------------------------------------------------------------------------------------------------- the adapter


def adapts_nothing(case: Case) -> str | None:
    if case.config is None:
        return None
    if not case.layers:
        return (
            "the model has no adapter and computes as its base: inject(model, config), or load_adapter(model, folder)"
        )
    if not any(layer.enabled for layer in case.layers.values()):
        return "every adapter of the model is switched off, so it computes as its base"
    return None


def is_another_adapter(case: Case) -> str | None:
    """Compare the model's adapter with the folder's: places, numbers, scaling."""
    if case.stored is None or not case.layers:
        return None
    in_file = {plain_name(name): tensor for name, tensor in case.stored.tensors.items()}
    in_model = {place.name: place for place in tensor_places([*case.layers.items()], case.stored.layout)}
    if odd := [name.removeprefix(PREFIX) for name in (*in_file, *in_model) if (name in in_file) != (name in in_model)]:
        return f"the model does not adapt what the folder does: only one of the two has {quoted(odd[:4])}"
    for name, layer in case.layers.items():
        ours, theirs = (getattr(config, "scaling", None) for config in (layer.config, case.stored.config.at(name)))
        if ours != theirs:
            return f"{name} scales its update by {ours:g}, and the folder's α and rank by {theirs:g}"
    stored = {name: place.decode(in_file[name].to(place.tensor.dtype)) for name, place in in_model.items()}
    for name, place in in_model.items():
        if torch.equal(place.tensor.cpu(), stored[name]):
            continue
        partner = stored.get(name.replace("lora_A", "lora_B") if "lora_A" in name else name.replace("lora_B", "lora_A"))
        if partner is not None and torch.equal(place.tensor.cpu(), partner.T):
            return f"the factors of {place.short_name} are transposed: A holds B's numbers"
        return f"{place.short_name} holds other numbers than the folder: was the adapter loaded, or trained on since?"
    return None


def has_another_base(case: Case) -> str | None:
    named = None if case.stored is None else case.stored.settings.get("base_model_name_or_path")
    if not isinstance(named, str) or not named or case.stored is None:
        return None
    own = getattr(getattr(unwrapped(case.model), "config", None), "_name_or_path", "")
    if own and own.rpartition("/")[2].casefold() != named.rpartition("/")[2].casefold():
        return f"the folder names {named!r} as its base, and this model is {own!r}"
    try:
        theirs = base_shape(case.stored, None)
    except ValueError:  # not known here
        return None
    ours = getattr(unwrapped(case.model), "config", None)
    differing = [
        f"{name} {getattr(theirs, name)}"
        for name in SIZES
        if getattr(ours, name, None) not in (None, getattr(theirs, name))
    ]
    return (
        f"the folder names {named!r} as its base, which has {', '.join(differing)}; this model has not"
        if differing
        else None
    )


def changes_nothing(case: Case) -> str | None:
    if case.can_compare and case.loss == case.base_loss:
        return "the adapter changes nothing: the loss is the same with it and without. Is B still zero?"
    return None


def helps_nothing(case: Case) -> str | None:
    if not case.can_compare or case.loss <= case.base_loss:
        return None
    return (
        f"these batches are less likely with the adapter, at {case.loss:.3g} nats a token, than without it, at "
        f"{case.base_loss:.3g}: is it for this base and this chat template, and are its factors the right way round?"
    )


def leaves_dropout_on(case: Case) -> str | None:
    on = [
        name for name, part in case.model.named_modules() if isinstance(part, nn.Dropout) and part.training and part.p
    ]
    if case.stored is not None and on:
        return f"dropout is on in {on[0]} and {len(on) - 1} more, so each answer is another: model.eval()"
    return None


def adapts_the_router_alone(case: Case) -> str | None:
    names = [name.split(".") for name in case.layers]
    routers = [parts for parts in names if parts[-1] in ("gate", "router")]
    if routers and not any("experts" in parts for parts in names):
        return f"{'.'.join(routers[0])} sends tokens to experts and is adapted, and the experts are frozen"
    return None


# ------------------------------------------------------------------------------------------------ training to come


def trains_nothing(case: Case) -> str | None:
    if case.config is None or case.stored is not None:
        return None
    if not trainable_parameters(case.model):
        return "no parameter of the model requires a gradient, so that nothing would train"
    if not case.batches:
        return None
    dead = [name for name, gradient in case.gradients.items() if gradient is None]
    if dead:
        return f"no gradient reaches {dead[0]} and {len(dead) - 1} more: does the forward pass call their modules?"
    if not any(gradient.any() for gradient in case.gradients.values() if gradient is not None):
        return "every gradient is zero, so that nothing would train: are both factors zero?"
    return None


def trains_in_16_bits(case: Case) -> str | None:
    narrow = [n for n, p in case.model.named_parameters() if p.requires_grad and p.dtype.itemsize < 4]
    if case.stored is None and narrow:
        return (
            f"{narrow[0]} and {len(narrow) - 1} more train in 16 bits, where a step below a 256th of a weight is lost: "
            "keep what trains in fp32"
        )
    return None


def learns_too_slowly(case: Case) -> str | None:
    """Adam moves a number by its rate a step: after n steps the loss is lower by n · rate · Σ|g|, if all goes well."""
    if case.learning_rate is None or case.stored is not None or not case.batches:
        return None
    slope = sum(float(one.abs().sum()) for one in case.gradients.values() if one is not None)
    gain, loss = case.steps * case.learning_rate * slope, case.first_loss().item()
    if 0 < gain < SLOW * loss:
        rate = f"{case.steps} steps at a rate of {case.learning_rate:g}"
        return f"{rate} can lower the loss of {loss:.3g} by {gain:.2g} at most"
    return None


def learns_too_fast(case: Case) -> str | None:
    """Try one step of Adam, which is the rate in each number, and take it back."""
    if case.learning_rate is None or case.stored is not None or not case.batches:
        return None
    before, trained = case.first_loss().item(), dict(case.model.named_parameters())
    kept = {name: trained[name].detach().clone() for name in case.gradients}
    with torch.no_grad():
        try:
            for name, gradient in case.gradients.items():
                if gradient is not None:
                    trained[name].sub_(case.learning_rate * gradient.sign())
            after = case.first_loss().item()
        finally:
            for name, value in kept.items():
                trained[name].copy_(value)
    if not after <= FAST * before:
        return f"one step at a rate of {case.learning_rate:g} takes the loss from {before:.3g} to {after:.3g}"
    return None


def runs_out_of_memory(case: Case) -> str | None:
    """Compare what a step needs beside the model, which is there already, with what is left."""
    from peft_lessons.accounting import BF16, FP32, TRAIN_FP32, decoder_shape, training_memory  # which take their time

    if case.stored is not None or not case.batches or not case.rows:
        return None
    trained = sum(parameter.numel() for parameter in trainable_parameters(case.model))
    needed = 3 * 4 * trained  # a gradient and AdamW's two moments, in fp32
    largest = max((batch["input_ids"].shape for batch in case.batches), key=math.prod)
    decoder = unwrapped(case.model)
    if isinstance(decoder, Decoder) and isinstance(case.config, AdapterConfig):
        precise = next(case.model.parameters()).dtype == torch.float32
        with suppress(TypeError, ValueError):  # places that the planner does not count: the sum above is what is sure
            memory = training_memory(
                decoder_shape(decoder.config),
                case.config,
                batch=largest[0],
                tokens=largest[1],
                precision=TRAIN_FP32,
                compute=FP32 if precise else BF16,
            )
            needed = memory.total - memory.weights
    device = next(case.model.parameters()).device
    left = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else available_memory()
    if needed > MOST * left:
        step = f"a step on {largest[0]} × {largest[1]} tokens"
        return f"{step} needs {needed / 1e9:.2g} GB, and {left / 1e9:.2g} GB are left"
    return None


# ---------------------------------------------------------------------------------------------------------- the data


def scores_the_prompt(case: Case) -> str | None:
    """All examples begin alike, as chats do, and the beginning is scored."""
    rows = [row.shown for row in case.rows if len(row.shown.ids) > SHARED]
    starts = {tuple(row.ids[:SHARED].tolist()) for row in rows}
    if len({tuple(row.ids.tolist()) for row in rows}) < 2 or len(starts) > 1:
        return None
    if all(row.scored[1:SHARED].all() for row in rows):
        start = f"every example begins with the same {SHARED} tokens, and they are scored"
        return f"{start}: the labels of the prompt must be {IGNORED}"
    return None


def scores_padding(case: Case) -> str | None:
    masked = [row for row in case.rows if row.mask is not None and (row.scored & (row.mask == 0)).any()]
    if masked:
        some = f"{len(masked)} of {len(case.rows)} examples"
        return f"{some} score what their attention_mask hides: its labels must be {IGNORED}"
    ends = Counter(int(row.ids[-1]) for row in case.rows if len(row.ids) > 2 and _ends_in_a_run(row))
    token, count = ends.most_common(1)[0] if ends else (0, 0)
    if count > 1 and 4 * count >= len(case.rows):
        some = f"{count} of {len(case.rows)} examples"
        return f"{some} end in token {token} again and again, and it is scored: is it padding?"
    return None


def _ends_in_a_run(row: Row) -> bool:
    return bool((row.ids[-2:] == row.ids[-1]).all() and row.scored[-2:].all())


def shifts_labels_twice(case: Case) -> str | None:
    """A label is the token at its own place: the loss compares it with what was said one place before."""
    here = [row.labels[row.scored] == row.ids[row.scored] for row in case.rows]
    ahead = [row.labels[:-1][row.scored[:-1]] == row.ids[1:][row.scored[:-1]] for row in case.rows]
    if _share(ahead) > MOST > _share(here):
        return "the labels are the tokens one place further on, and the loss shifts them again: give them as they stand"
    return None


def _share(found: list[Tensor]) -> float:
    """Of all that was compared, how much was equal."""
    together = torch.cat(found) if found else torch.zeros(0)
    return float(together.float().mean()) if len(together) else 0.0


def never_ends(case: Case) -> str | None:
    """No answer ends in the end token, so a model would learn to go on for ever."""
    config = getattr(unwrapped(case.model), "config", None)
    said = getattr(config, "eos_token_id", None) if case.eos_id is None else case.eos_id
    end_tokens = {said} if isinstance(said, int) else set(said or ())
    last = [int(row.labels[row.scored][-1]) for row in case.rows if row.has_prompt]
    if end_tokens and last and not end_tokens & set(last):
        ends = ", ".join(map(str, sorted(end_tokens)))
        return f"none of {len(last)} answers ends in a scored end token ({ends}): the model never learns to stop"
    return None


def repeats_one_example(case: Case) -> str | None:
    if len(case.rows) > 1 and len({tuple(row.ids.tolist()) for row in case.rows}) == 1:
        return f"all {len(case.rows)} examples are the same one"
    return None


CHECKS: tuple[Callable[[Case], str | None], ...] = (
    adapts_nothing,
    is_another_adapter,
    has_another_base,
    changes_nothing,
    helps_nothing,
    leaves_dropout_on,
    adapts_the_router_alone,
    trains_nothing,
    trains_in_16_bits,
    learns_too_slowly,
    learns_too_fast,
    runs_out_of_memory,
    scores_the_prompt,
    scores_padding,
    shifts_labels_twice,
    never_ends,
    repeats_one_example,
)
