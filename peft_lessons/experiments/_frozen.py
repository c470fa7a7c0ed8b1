"""Blocks at the bottom that train nothing: what they say about a text is the same in every step, and computed once."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from peft_lessons.models.decoder import Context, Decoder, rotary_angles


def context(model: Decoder, x: Tensor) -> Context:
    return Context(*rotary_angles(0, x.shape[1], model.config, x), None, None)


@torch.no_grad()
def below(model: Decoder, input_ids: Tensor, blocks: int) -> Tensor:
    """Return what the first `blocks` make of a text, (batch, tokens, hidden_size)."""
    x = model.model.embed(input_ids)
    for block in model.model.layers[:blocks]:
        x = block(x, context(model, x))
    return x


def above(model: Decoder, blocks: int, states: Sequence[Tensor]) -> tuple[Decoder, list[Tensor]]:
    """Return the model without its first `blocks`, and ids, (batch, tokens), for each of the `states` that these left.

    The ids are the rows of one table of all states, which stands in the place of the embedding; labels are tokens as
    ever. The other blocks are those of the model: what trains here trains there.
    """
    table = torch.cat([x.flatten(0, 1) for x in states])
    with torch.device("meta"):
        upper = Decoder(model.config)
    upper.model.embed_tokens = nn.Embedding.from_pretrained(table)
    upper.model.layers = model.model.layers[blocks:]
    upper.model.norm, upper.lm_head = model.model.norm, model.lm_head
    shapes = [x.shape[:2] for x in states]
    rows = torch.arange(len(table)).split([batch * tokens for batch, tokens in shapes])
    return upper, [ids.view(shape) for ids, shape in zip(rows, shapes, strict=True)]
