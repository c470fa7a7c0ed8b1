"""One training loop for every lesson, and the batches that it eats.

A batch is `(input_ids, labels)`, both (batch, tokens) of int64. As in Hugging Face's libraries labels are not shifted,
and a label of -100 is not scored.
"""

import math
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from peft_lessons.adapters import trainable_parameters
from peft_lessons.models.decoder import Decoder

IGNORED = -100
POOL = 8  # batches

Batch = tuple[Tensor, Tensor]


@dataclass
class History:
    """What happened in training, a number a step."""

    losses: list[float] = field(default_factory=list)  # training loss, nats per scored token
    evaluations: list[tuple[int, float]] = field(default_factory=list)  # (steps done, value of `evaluate`)
    seconds: float = 0.0  # wall clock of the training steps alone
    interrupted: bool = False


def train(
    model: nn.Module,
    batches: Iterable[Batch],
    *,
    steps: int,
    learning_rate: float,
    warmup: float = 0.1,
    weight_decay: float = 0.0,
    max_norm: float = 1.0,
    evaluate: Callable[[nn.Module], float] | None = None,
    evaluate_every: int | None = None,
    seed: int = 0,
    groups: Sequence[dict[str, Any]] | None = None,
    after_step: Callable[[int], object] | None = None,
    loss: Callable[..., Tensor] | None = None,
    bar: Callable[..., Iterable[int]] | None = None,
) -> History:
    """Train what requires a gradient with AdamW; returns the history.

    The learning rate rises linearly over the first `warmup` share of the steps, then falls to zero on a cosine.
    Gradients are clipped to a total norm of `max_norm`. `seed` fixes dropout: it reseeds torch's global generator. The
    order of the data is fixed by whoever makes the batches. `evaluate(model)` is called at the start, every
    `evaluate_every` steps and at the end. `groups` are parameter groups with learning rates of their own, as
    `lora_plus_groups` makes them. `after_step(n)` is called after step n, the first being 1, while the gradients are
    there, as a `RankAllocator` needs them. `bar(range(steps))` shows progress: tqdm's bar in a terminal unless told
    otherwise. However training ends, the model is left in eval mode and without gradients.

    An interrupt from the keyboard, in an evaluation too, ends training early and keeps what was learnt.
    Raises ValueError when nothing requires a gradient, when the batches run out, when a batch has no label to score, or
    when the loss is not finite.
    """
    parameters = trainable_parameters(model)
    if not parameters:
        raise ValueError("nothing to train: no parameter requires a gradient (inject an adapter first?)")
    loss = loss or language_model_loss
    optimizer = torch.optim.AdamW(groups or parameters, lr=learning_rate, weight_decay=weight_decay, fused=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: learning_rate_factor(step, steps, warmup))
    history = History()

    def evaluated(step: int) -> None:
        if evaluate is not None:
            model.eval()
            history.evaluations.append((step, evaluate(model)))
            model.train()

    @contextmanager
    def interruptible() -> Iterator[None]:
        try:
            yield
        except KeyboardInterrupt:
            history.interrupted = True

    torch.manual_seed(seed)
    model.train()
    source = iter(batches)
    try:
        with interruptible():
            evaluated(0)
            for step in (bar or terminal_bar)(range(steps)):
                started = time.perf_counter()
                batch = next(source, None)
                if batch is None:
                    raise ValueError(f"the batches ran out after {step} of {steps} steps")
                optimizer.zero_grad()
                value = loss(model, *batch)
                if not torch.isfinite(value):
                    raise ValueError(f"the loss is {value.item()} at step {step}: try a lower learning rate")
                value.backward()
                nn.utils.clip_grad_norm_(parameters, max_norm)
                history.losses.append(value.item())  # before the step: an interrupt loses no step that was made
                optimizer.step()
                schedule.step()
                if after_step:
                    after_step(len(history.losses))
                history.seconds += time.perf_counter() - started
                if evaluate_every and (step + 1) % evaluate_every == 0 and step + 1 < steps:
                    evaluated(step + 1)
        with interruptible():
            evaluated(len(history.losses))
    finally:
        optimizer.zero_grad()
        model.eval()
    return history


def learning_rate_factor(step: int, steps: int, warmup: float) -> float:
    """Share of the peak learning rate that step `step` of `steps` uses: linear warm-up, then a cosine to zero."""
    rising = max(1, round(warmup * steps))
    if step < rising:
        return (step + 1) / rising
    return 0.5 * (1 + math.cos(math.pi * (step - rising) / max(1, steps - rising)))


def terminal_bar(steps: Iterable[int]) -> Iterable[int]:
    """tqdm's bar when a terminal is watching, nothing otherwise."""
    if not sys.stderr.isatty():
        return steps
    from tqdm import tqdm

    return tqdm(steps)


def language_model_loss(model: nn.Module, input_ids: Tensor, labels: Tensor) -> Tensor:
    """Mean cross-entropy of the next token, in nats, over all labels that are not ignored. A scalar.

    Raises ValueError when all are ignored.
    """
    return _mean(_token_losses(model, input_ids, labels))


def _token_losses(model: nn.Module, input_ids: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy of each scored label, (scored,), in fp32."""
    device = next(model.parameters()).device
    input_ids, targets = input_ids.to(device), labels[:, 1:].to(device)
    scored = targets != IGNORED
    if not scored.any():
        return torch.zeros(0, device=device)
    if not isinstance(model, Decoder):
        return F.cross_entropy(model(input_ids)[:, :-1][scored].float(), targets[scored], reduction="none")
    hidden = model.model(input_ids[:, :-1])[scored]  # what follows the last token is not known, nor seen by the others
    return _head_losses(model.lm_head, hidden, targets[scored])


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
        raise ValueError(f"nothing to score: every label after the first of its row is ignored ({IGNORED})")
    return losses.mean()


@torch.no_grad()
def evaluate_loss(model: nn.Module, batches: Sequence[Batch]) -> float:
    """Cross-entropy over all scored tokens of `batches`, in nats per token. exp of it is the perplexity.

    Raises ValueError when no token is scored.
    """
    losses = torch.cat([_token_losses(model, *batch) for batch in batches])
    return _mean(losses.double()).item()


def windows(token_ids: Sequence[int], *, batch_size: int, length: int, seed: int) -> Iterator[Batch]:
    """Endless batches of random windows of `length` tokens from one long text; the seed fixes them."""
    ids = torch.as_tensor(token_ids)
    if len(ids) < length:
        raise ValueError(f"the text has {len(ids)} tokens, too few for windows of {length}")
    generator = torch.Generator().manual_seed(seed)
    while True:
        starts = torch.randint(len(ids) - length + 1, (batch_size,), generator=generator)
        batch = torch.stack([ids[start : start + length] for start in starts])
        yield batch, batch


def consecutive_windows(token_ids: Sequence[int], *, batch_size: int, length: int) -> list[Batch]:
    """The text cut into windows of `length` tokens, in order, for evaluation; a rest that is too short is left out."""
    ids = torch.as_tensor(token_ids)
    count = len(ids) // length
    if count == 0:
        raise ValueError(f"the text has {len(ids)} tokens, too few for a window of {length}")
    return [(batch, batch) for batch in ids[: count * length].view(count, length).split(batch_size)]


def padded(examples: Sequence[tuple[Sequence[int], Sequence[int]]], pad_id: int) -> Batch:
    """One batch from (prompt ids, answer ids) pairs, padded on the right; only answers are scored.

    Padding needs no mask: attention is causal, so no scored token sees what stands to its right.
    """
    length = max(len(prompt) + len(answer) for prompt, answer in examples)
    input_ids = torch.full((len(examples), length), pad_id)
    labels = torch.full((len(examples), length), IGNORED)
    for row, (prompt, answer) in enumerate(examples):
        end = len(prompt) + len(answer)
        input_ids[row, :end] = torch.tensor([*prompt, *answer])
        labels[row, len(prompt) : end] = torch.tensor(answer)
    return input_ids, labels


def shuffled(
    examples: Sequence[tuple[Sequence[int], Sequence[int]]], *, batch_size: int, pad_id: int, seed: int
) -> Iterator[Batch]:
    """Endless padded batches; each pass over the examples is in a new order that the seed fixes.

    Examples of like length share a batch, since padding takes as long to compute as text: of every POOL batches that
    the random order brings together, the examples are dealt out by length and the batches shuffled again.
    """
    if len(examples) < batch_size:
        raise ValueError(f"{len(examples)} examples cannot fill a batch of {batch_size}")
    lengths = [len(prompt) + len(answer) for prompt, answer in examples]
    generator = torch.Generator().manual_seed(seed)
    while True:
        order = torch.randperm(len(examples), generator=generator)[: len(examples) // batch_size * batch_size]
        for pool in order.split(POOL * batch_size):
            by_length = sorted(pool.tolist(), key=lengths.__getitem__)
            for start in batch_size * torch.randperm(len(pool) // batch_size, generator=generator):
                yield padded([examples[i] for i in by_length[start : start + batch_size]], pad_id)
