"""One training loop for every lesson, and the batches that it eats.

A batch is `(input_ids, labels)`, both (batch, tokens) of int64, or a mapping with these and whatever else the model
takes, such as `attention_mask`. As in Hugging Face's libraries labels are not shifted, and a label of -100 is not
scored. A batch of any other form is for a `loss` of your own, which gets the parts of a tuple one after another, and
those of a mapping by name.
"""

import dataclasses
import math
import signal
import sys
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from peft_lessons.adapters import trainable_parameters
from peft_lessons.checks import check_count, check_positive
from peft_lessons.interrupts import Interrupts
from peft_lessons.models.decoder import Decoder
from peft_lessons.training_state import TrainingState

IGNORED = -100
POOL = 8  # batches
CPU = "cpu"  # where batches are made, whatever the default device
NOTHING_SCORED = f"nothing to score: every label after the first of its row is ignored ({IGNORED})"

Batch = tuple[Tensor, Tensor]
AnyBatch = Sequence[Any] | Mapping[str, Any]
Loss = Callable[..., Tensor]


@dataclass
class History:
    """What happened in training, a number a step.

    Examples:
        >>> from peft_lessons.training import History
        >>> History(losses=[2.0, 1.5]).interrupted
        False
    """

    losses: list[float] = field(default_factory=list)  # training loss, nats per scored token
    evaluations: list[tuple[int, float]] = field(default_factory=list)  # (steps done, value of `evaluate`)
    seconds: float = 0.0  # wall clock of the training steps alone
    interrupted: bool = False


def train(
    model: nn.Module,
    batches: Iterable[AnyBatch],
    *,
    steps: int,
    learning_rate: float,
    warmup: float = 0.1,
    weight_decay: float = 0.0,
    max_norm: float = 1.0,
    accumulate: int = 1,
    evaluate: Callable[[nn.Module], float] | None = None,
    evaluate_every: int | None = None,
    seed: int = 0,
    groups: Sequence[dict[str, Any]] | None = None,
    after_step: Callable[[int], object] | None = None,
    loss: Loss | None = None,
    bar: Callable[..., Iterable[int]] | None = None,
    checkpoint: str | Path | None = None,
    checkpoint_every: int | None = None,
) -> History:
    """Train what requires a gradient with AdamW; returns the history.

    The learning rate rises linearly over the first `warmup` share of the steps, then falls to zero on a cosine.
    Gradients are clipped to a total norm of `max_norm`. A step takes `accumulate` batches one after another and equals
    a step on one batch with all their examples. `seed` fixes dropout: it reseeds torch's global generator. The order of
    the data is fixed by whoever makes the batches. `evaluate(model)` is called at the start, every `evaluate_every`
    steps and at the end. `groups` are parameter groups with learning rates of their own, as `lora_plus_groups` makes
    them. `after_step(n)` is called after step n, the first being 1, while the gradients are there, as a `RankAllocator`
    needs them. `bar(range(steps))` shows progress: tqdm's bar in a terminal unless told otherwise. However training
    ends, the model is left in eval mode and without gradients.

    The loss is the cross-entropy of the next token, of a `Decoder` or of any model that returns logits (batch, tokens,
    vocabulary), be it inside of one of transformers' outputs. Another `loss(model, *batch)` returns one number for each
    label that it scores, (labels,), or their mean; a mean is taken to be that over all labels of the batch which are
    not ignored.

    Ctrl+C ends training once the step that is being made is whole, in an evaluation at once, and keeps what was learnt.
    A second Ctrl+C does not wait.

    Parameters that no step has given a gradient are named in a warning: most often nothing calls their module.

    `checkpoint` is a folder where the state of training is kept: every `checkpoint_every` steps (unless told otherwise
    ten times in all), at the end, and after Ctrl+C or SIGTERM. The same call finds it there, in a new process too, and
    goes on; weights and history become bit for bit those of a run that never stopped. It needs the model as it was
    before training and the batches from the first on: those that were seen are made again and skipped. What
    `after_step` or `loss` remember from one step to the next is kept if it lies in buffers of the model, as that of a
    `RankAllocator` does.

    Raises:
        ValueError: for settings that make no sense, when nothing requires a gradient or the loss depends on
            nothing that does, when the batches run out, when a batch has no label to score, when the loss or a
            gradient is not finite (before it is applied), and when the folder holds another run.
        TypeError: for batches of a form that the loss cannot take.
        OSError: when the folder cannot be written, which leaves the last whole state in it.

    Examples:
        >>> import torch
        >>> from torch import nn
        >>> from peft_lessons.training import train
        >>> model = nn.Sequential(nn.Embedding(5, 8), nn.Linear(8, 5))
        >>> ids = torch.tensor([[0, 1, 2, 3, 4]])
        >>> history = train(model, [(ids, ids)] * 20, steps=20, learning_rate=0.1)
        >>> len(history.losses), history.losses[-1] < history.losses[0]
        (20, True)
    """
    check_count("steps", steps)
    check_count("accumulate", accumulate)
    check_positive("learning_rate", learning_rate)
    for name, every in {"evaluate_every": evaluate_every, "checkpoint_every": checkpoint_every}.items():
        if every is not None:
            check_count(name, every)
    if not 0 <= warmup <= 1:
        raise ValueError(f"warmup is a share of the steps, from 0 to 1; got {warmup}")
    if not max_norm > 0:
        raise ValueError(f"max_norm must be positive (math.inf clips nothing), got {max_norm}")
    trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    if not trained:
        raise ValueError("nothing to train: no parameter requires a gradient (inject an adapter first?)")

    # SIGTERM ends the process, as ever, when there is no folder to save anything in.
    with (
        Interrupts(signal.SIGINT, *([signal.SIGTERM] if checkpoint else [])) as interrupts,
        _at_rest(model),
        torch.enable_grad(),
    ):
        optimizer = torch.optim.AdamW(
            groups or trained.values(), lr=learning_rate, weight_decay=weight_decay, fused=True
        )
        rates = [group["lr"] for group in optimizer.param_groups]
        torch.manual_seed(seed)
        source = _supply(batches, steps, accumulate)
        state, history = None, History()
        if checkpoint:
            settings = {"steps": steps, "learning_rate": learning_rate, "warmup": warmup, "weight_decay": weight_decay}
            settings |= {"max_norm": max_norm, "accumulate": accumulate, "seed": seed}
            state = TrainingState(checkpoint, model, optimizer, settings)
            history = _resumed(state, source, accumulate, interrupts)

        def evaluated(step: int) -> None:
            if evaluate is not None:
                model.eval()
                with interrupts.at_once():
                    history.evaluations.append((step, evaluate(model)))
                model.train()

        idle, first = set(trained), len(history.losses)
        model.train()
        try:
            for step in (bar or terminal_bar)(range(first, steps)):
                if step == 0 or (evaluate_every and step % evaluate_every == 0):
                    evaluated(step)
                started = time.perf_counter()
                if state:
                    state.begin_step()
                optimizer.zero_grad()
                value, last = _gradients(model, source, accumulate, loss, step)
                idle -= _with_gradients(trained)
                _clip_gradients(trained, max_norm, step)
                for group, rate in zip(optimizer.param_groups, rates, strict=True):
                    group["lr"] = rate * learning_rate_factor(step, steps, warmup)
                history.losses.append(value)  # before the step: an interrupt loses no step that was made
                optimizer.step()
                if after_step:
                    after_step(len(history.losses))
                history.seconds += time.perf_counter() - started
                if state:
                    state.end_step(last)
                    if (step + 1) % (checkpoint_every or math.ceil(steps / 10)) == 0:
                        state.save(dataclasses.asdict(history))
                interrupts.here()
        except KeyboardInterrupt:
            history.interrupted = True
        if state:
            state.save(dataclasses.asdict(history))
        try:
            interrupts.here()
            evaluated(len(history.losses))
        except KeyboardInterrupt:
            history.interrupted = True
    if idle and len(history.losses) > first:
        warnings.warn(
            f"{len(idle)} of {len(trained)} parameters that train had no gradient in any step, as {min(idle)}: does "
            "the model's forward pass call the modules that they lie in?",
            stacklevel=2,
        )
    return history


def _with_gradients(trained: Mapping[str, nn.Parameter]) -> set[str]:
    return {name for name, parameter in trained.items() if parameter.grad is not None}


@contextmanager
def _at_rest(model: nn.Module) -> Iterator[None]:
    """However this context ends, the model is left in eval mode and without gradients."""
    try:
        yield
    finally:
        model.eval()
        model.zero_grad()


def _iterator(batches: Iterable[AnyBatch]) -> Iterator[AnyBatch]:
    try:
        return iter(batches)
    except TypeError as error:
        raise TypeError(f"batches must be a list or a generator of batches; got {batches!r:.60}") from error


def _supply(batches: Iterable[AnyBatch], steps: int, accumulate: int) -> Iterator[AnyBatch]:
    """The batches one after another, and where there are no more, a ValueError that says so."""
    source = _iterator(batches)

    def supply() -> Iterator[AnyBatch]:
        taken = 0
        for batch in source:
            yield batch
            taken += 1
        raise ValueError(f"the batches ran out after {taken // accumulate} of {steps} steps")

    return supply()


def _resumed(state: TrainingState, source: Iterator[AnyBatch], accumulate: int, interrupts: Interrupts) -> History:
    """The history of the newest state, which is put to use; `source` is moved on to the next batch.

    Raises ValueError when that state is of another run, or of one on other batches; nothing changes then.
    """
    stored = state.newest()
    if stored is None:
        return History()
    history = History(**stored.history | {"interrupted": False})
    history.evaluations = [(step, value) for step, value in history.evaluations]
    last: AnyBatch = ()
    for _ in range(len(history.losses) * accumulate):
        interrupts.here()
        last = next(source)
    state.restore(stored, last)
    return history


def _gradients(
    model: nn.Module, source: Iterator[AnyBatch], accumulate: int, loss: Loss | None, step: int
) -> tuple[float, AnyBatch]:
    """Leave the gradients of the mean loss over all labels of the next `accumulate` batches.

    They are a running mean, so that there is one set of them. Returns the mean loss and the last batch.
    """
    mean, total = 0.0, 0
    batch: AnyBatch = ()
    for batch in islice(source, accumulate):
        losses, labels = _losses(model, batch, loss)
        if not labels:
            continue
        total += labels
        value, share = losses.mean(), labels / total
        mean += share * (value.item() - mean)
        if not math.isfinite(mean):
            raise ValueError(f"the loss is {value.item()} at step {step}: try a lower learning rate")
        if not value.requires_grad:
            raise ValueError(
                "the loss depends on nothing that trains: does the model's forward pass call the adapted modules?"
            )
        if share < 1:
            for parameter in trainable_parameters(model):
                if parameter.grad is not None:
                    parameter.grad.mul_(1 - share)
        (share * value).backward()
    if not total:
        raise ValueError(NOTHING_SCORED)
    return mean, batch


def _clip_gradients(trained: dict[str, nn.Parameter], max_norm: float, step: int) -> None:
    """Shorten the gradients to a total norm of at most `max_norm`. Raises ValueError unless all are finite."""
    gradients = {name: parameter.grad for name, parameter in trained.items() if parameter.grad is not None}
    norm = nn.utils.get_total_norm(gradients.values())
    if not torch.isfinite(norm):
        broken = [name for name, gradient in gradients.items() if not gradient.isfinite().all()]
        which = f"of {broken[0]} ({len(broken)} of {len(gradients)} in all) is not finite" if broken else "overflows"
        raise ValueError(f"the gradient {which} at step {step}, and was not applied: try a lower learning rate")
    nn.utils.clip_grads_with_norm_(trained.values(), max_norm, norm)


def learning_rate_factor(step: int, steps: int, warmup: float) -> float:
    """Share of the peak learning rate that step `step` of `steps` uses: linear warm-up, then a cosine to zero.

    Examples:
        >>> from peft_lessons.training import learning_rate_factor
        >>> [round(learning_rate_factor(step, steps=8, warmup=0.25), 2) for step in range(8)]
        [0.5, 1.0, 1.0, 0.93, 0.75, 0.5, 0.25, 0.07]
    """
    rising = max(1, round(warmup * steps))
    if step < rising:
        return (step + 1) / rising
    return 0.5 * (1 + math.cos(math.pi * (step - rising) / max(1, steps - rising)))


def terminal_bar(steps: Iterable[int]) -> Iterable[int]:
    """tqdm's bar when a terminal is watching, nothing otherwise.

    Examples:
        >>> from peft_lessons.training import terminal_bar
        >>> list(terminal_bar(range(3)))
        [0, 1, 2]
    """
    if not sys.stderr.isatty():
        return steps
    from tqdm import tqdm

    return tqdm(steps)


def language_model_loss(model: nn.Module, input_ids: Tensor, labels: Tensor, **inputs: Tensor) -> Tensor:
    """Mean cross-entropy of the next token, in nats, over all labels that are not ignored. A scalar.

    `inputs` are what else the model takes, such as `attention_mask`.

    Raises:
        ValueError: when all labels are ignored, or the shapes are not those of a language model.
        TypeError: for a model that returns no logits.

    Examples:
        >>> import torch
        >>> from torch import nn
        >>> from peft_lessons.training import IGNORED, language_model_loss
        >>> model = nn.Sequential(nn.Embedding(5, 8), nn.Linear(8, 5))
        >>> language_model_loss(model, torch.tensor([[0, 1, 2]]), torch.tensor([[IGNORED, IGNORED, 2]])).shape
        torch.Size([])
    """
    return _mean(token_losses(model, input_ids, labels, **inputs))


def _losses(model: nn.Module, batch: AnyBatch, loss: Loss | None) -> tuple[Tensor, int]:
    """The losses of a batch, (labels,) or their mean, and how many labels that are."""
    device = next(model.parameters()).device
    names = list(batch) if isinstance(batch, Mapping) else []
    if not isinstance(batch, Mapping | tuple | list):
        raise TypeError(f"a batch is a tuple (input_ids, labels), or a mapping with both; got {_kind(batch)}")
    if loss is None and not (len(batch) == 2 if not names else {"input_ids", "labels"} <= set(names)):
        found = names or [_kind(part) for part in batch]
        raise TypeError(
            f"next-token loss needs batches of input_ids and labels; this one has {', '.join(map(str, found))}. "
            "For others give a `loss` of your own"
        )
    call = loss or token_losses
    if isinstance(batch, Mapping):
        losses = call(model, **{name: _on(device, part) for name, part in batch.items()})
        labels = batch.get("labels")
    else:
        losses = call(model, *(_on(device, part) for part in batch))
        labels = batch[1] if len(batch) == 2 else None
    if not isinstance(losses, Tensor) or losses.ndim > 1:
        raise TypeError(f"the loss must be a scalar tensor or one of (labels,); got {_kind(losses)}")
    if losses.ndim:
        return losses, len(losses)
    return losses, int((labels != IGNORED).sum()) if isinstance(labels, Tensor) else 1


def _on(device: torch.device, part: Any) -> Any:
    return part.to(device) if isinstance(part, Tensor) else part


def _kind(value: Any) -> str:
    return f"a tensor of {tuple(value.shape)}" if isinstance(value, Tensor) else f"a {type(value).__name__}"


def token_losses(model: nn.Module, input_ids: Tensor, labels: Tensor, **inputs: Tensor) -> Tensor:
    """Cross-entropy of the next token for each label that is not ignored, in nats. (scored,) in fp32.

    Where all labels are ignored, there are no losses.

    Raises:
        ValueError: when the shapes are not those of a language model.
        TypeError: for a model that returns no logits.

    Examples:
        >>> import torch
        >>> from torch import nn
        >>> from peft_lessons.training import IGNORED, token_losses
        >>> model = nn.Sequential(nn.Embedding(5, 8), nn.Linear(8, 5))
        >>> token_losses(model, torch.tensor([[0, 1, 2]]), torch.tensor([[IGNORED, IGNORED, 2]])).shape
        torch.Size([1])
    """
    if labels.shape != input_ids.shape or labels.ndim != 2:
        raise ValueError(
            "next-token loss needs input_ids and labels of one shape, (batch, tokens); got "
            f"{tuple(input_ids.shape)} and {tuple(labels.shape)}. For another task give a `loss` of your own"
        )
    device = next(model.parameters()).device
    input_ids, targets = input_ids.to(device), labels[:, 1:].to(device)
    inputs = {name: part.to(device) for name, part in inputs.items()}
    scored = targets != IGNORED
    if not scored.any():
        return torch.zeros(0, device=device)
    if not isinstance(model, Decoder):
        logits = _logits(model(input_ids, **inputs), input_ids.shape)
        return F.cross_entropy(logits[:, :-1][scored].float(), targets[scored], reduction="none")
    # what follows the last token is not known, nor seen by the others
    inputs = {name: part[:, :-1] for name, part in inputs.items()}
    hidden = model.model(input_ids[:, :-1], **inputs)[scored]
    return _head_losses(model.lm_head, hidden, targets[scored])


def _logits(output: Any, shape: torch.Size) -> Tensor:
    """The logits in what a model returned: themselves, under their name, or the first in a tuple."""
    if isinstance(output, tuple | list) and not hasattr(output, "logits"):
        output = output[0]
    elif isinstance(output, Mapping):
        output = output.get("logits")
    logits = getattr(output, "logits", output)
    if not isinstance(logits, Tensor):
        raise TypeError(f"the model returns {_kind(output)} without logits: give a `loss` of your own")
    if logits.ndim != 3 or logits.shape[:2] != shape:
        raise ValueError(
            f"the model returns logits of {tuple(logits.shape)}, and next-token loss needs (batch, tokens, vocabulary) "
            f"for input_ids of {tuple(shape)}. For another task give a `loss` of your own"
        )
    return logits


def _head_losses(head: nn.Module, hidden: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy of `head(hidden)`, hidden (scored, hidden_size) → (scored,): the head sees no other position.

    The logits of one token are as many as the vocabulary, and with their softmax and its gradient the largest tensors
    of a step. While the head is frozen, a few rows at a time are enough.
    """
    if torch.is_grad_enabled() and any(parameter.requires_grad for parameter in head.parameters()):
        return F.cross_entropy(head(hidden).float(), targets, reduction="none")
    return _FrozenHeadLosses.apply(hidden, targets, head)


class _FrozenHeadLosses(torch.autograd.Function):
    """Takes the gradient of each row's loss to that row of `hidden` at once, and keeps it in place of the logits."""

    ROWS = 128

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, targets: Tensor, head: nn.Module) -> Tensor:
        losses, gradients = [], []
        size = _FrozenHeadLosses.ROWS
        for rows, wanted in zip(hidden.detach().split(size), targets.split(size), strict=True):
            with torch.set_grad_enabled(ctx.needs_input_grad[0]):
                rows.requires_grad_(ctx.needs_input_grad[0])
                loss = F.cross_entropy(head(rows).float(), wanted, reduction="none")
                if loss.requires_grad:
                    gradients += torch.autograd.grad(loss.sum(), rows)
            losses.append(loss.detach())
        ctx.save_for_backward(*gradients)
        return torch.cat(losses)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None, None]:
        gradient = torch.cat(ctx.saved_tensors)
        return upstream[:, None].to(gradient.dtype) * gradient, None, None


def _mean(losses: Tensor) -> Tensor:
    if not len(losses):
        raise ValueError(NOTHING_SCORED)
    return losses.mean()


@torch.no_grad()
def evaluate_loss(model: nn.Module, batches: Iterable[AnyBatch], loss: Loss | None = None) -> float:
    """Mean loss over all scored labels of `batches`, of language models in nats per token; exp of it is the perplexity.

    `loss` is as for `train`. The model computes in eval mode, and is left in the mode that it was in.

    Raises:
        ValueError: when no label is scored.
        TypeError: for batches of a form that the loss cannot take.

    Examples:
        >>> import torch
        >>> from torch import nn
        >>> from peft_lessons.training import evaluate_loss
        >>> model = nn.Sequential(nn.Embedding(5, 8), nn.Linear(8, 5))
        >>> _ = nn.init.zeros_(model[1].weight), nn.init.zeros_(model[1].bias)
        >>> ids = torch.tensor([[0, 1, 2, 3, 4]])
        >>> round(evaluate_loss(model, [(ids, ids)]), 3)  # ln 5: every token is as likely
        1.609
    """
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        found = [_losses(model, batch, loss) for batch in _iterator(batches)]
    finally:
        for module in training:
            module.training = True
    return _mean(
        torch.cat([losses.double().expand(labels) for losses, labels in found] or [torch.zeros(0, device=CPU)])
    ).item()


def windows(token_ids: Sequence[int], *, batch_size: int, length: int, seed: int) -> Iterator[Batch]:
    """Endless batches of random windows of `length` tokens from one long text; the seed fixes them.

    Raises:
        ValueError: for a text with fewer than `length` tokens.

    Examples:
        >>> from peft_lessons.training import windows
        >>> input_ids, labels = next(windows(range(100), batch_size=2, length=5, seed=0))
        >>> input_ids.shape, labels is input_ids
        (torch.Size([2, 5]), True)
    """
    ids = torch.as_tensor(token_ids, device=CPU)
    if len(ids) < length:
        raise ValueError(f"the text has {len(ids)} tokens, too few for windows of {length}")
    generator = torch.Generator().manual_seed(seed)
    while True:
        starts = torch.randint(len(ids) - length + 1, (batch_size,), generator=generator, device=CPU)
        batch = torch.stack([ids[start : start + length] for start in starts])
        yield batch, batch


def consecutive_windows(token_ids: Sequence[int], *, batch_size: int, length: int) -> list[Batch]:
    """The text cut into windows of `length` tokens, in order, for evaluation; a rest that is too short is left out.

    Raises:
        ValueError: for a text with fewer than `length` tokens.

    Examples:
        >>> from peft_lessons.training import consecutive_windows
        >>> [input_ids.tolist() for input_ids, _ in consecutive_windows(range(7), batch_size=1, length=3)]
        [[[0, 1, 2]], [[3, 4, 5]]]
    """
    ids = torch.as_tensor(token_ids, device=CPU)
    count = len(ids) // length
    if count == 0:
        raise ValueError(f"the text has {len(ids)} tokens, too few for a window of {length}")
    return [(batch, batch) for batch in ids[: count * length].view(count, length).split(batch_size)]


def padded(examples: Sequence[tuple[Sequence[int], Sequence[int]]], pad_id: int) -> Batch:
    """One batch from (prompt ids, answer ids) pairs, padded on the right; only answers are scored.

    Padding needs no mask: attention is causal, so no scored token sees what stands to its right.

    Examples:
        >>> from peft_lessons.training import padded
        >>> input_ids, labels = padded([([1, 2], [3]), ([4], [5])], pad_id=0)
        >>> input_ids.tolist(), labels.tolist()
        ([[1, 2, 3], [4, 5, 0]], [[-100, -100, 3], [-100, 5, -100]])
    """
    length = max(len(prompt) + len(answer) for prompt, answer in examples)
    input_ids = torch.full((len(examples), length), pad_id, device=CPU)
    labels = torch.full((len(examples), length), IGNORED, device=CPU)
    for row, (prompt, answer) in enumerate(examples):
        end = len(prompt) + len(answer)
        input_ids[row, :end] = torch.tensor([*prompt, *answer], device=CPU)
        labels[row, len(prompt) : end] = torch.tensor(answer, device=CPU)
    return input_ids, labels


def shuffled(
    examples: Sequence[tuple[Sequence[int], Sequence[int]]], *, batch_size: int, pad_id: int, seed: int
) -> Iterator[Batch]:
    """Endless padded batches; each pass over the examples is in a new order that the seed fixes.

    Examples of like length share a batch, since padding takes as long to compute as text: of every POOL batches that
    the random order brings together, the examples are dealt out by length and the batches shuffled again.

    Raises:
        ValueError: for fewer than `batch_size` examples.

    Examples:
        >>> from peft_lessons.training import shuffled
        >>> batches = shuffled([([1], [2]), ([3], [4, 5])], batch_size=1, pad_id=0, seed=0)
        >>> sorted(next(batches)[0].shape[1] for _ in range(2))
        [2, 3]
    """
    if len(examples) < batch_size:
        raise ValueError(f"{len(examples)} examples cannot fill a batch of {batch_size}")
    lengths = [len(prompt) + len(answer) for prompt, answer in examples]
    generator = torch.Generator().manual_seed(seed)
    while True:
        order = torch.randperm(len(examples), generator=generator, device=CPU)[
            : len(examples) // batch_size * batch_size
        ]
        for pool in order.split(POOL * batch_size):
            by_length = sorted(pool.tolist(), key=lengths.__getitem__)
            for start in batch_size * torch.randperm(len(pool) // batch_size, generator=generator, device=CPU):
                yield padded([examples[i] for i in by_length[start : start + batch_size]], pad_id)
