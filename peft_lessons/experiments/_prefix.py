"""What many texts begin with, read once. A server keeps the keys and values of a prompt that all requests share."""

import torch

from peft_lessons.models.decoder import Decoder, KeyValueCache


@torch.no_grad()
def read(model: Decoder, ids: list[int]) -> KeyValueCache:
    """Return the keys and values of one text."""
    cache = KeyValueCache()
    model.model(torch.tensor([ids]), cache=cache)
    return cache


def before(cache: KeyValueCache, rows: int) -> KeyValueCache:
    """Return a cache for a batch whose `rows` all begin with that text; `cache` itself stays as it is."""
    shared = KeyValueCache()
    shared.layers = {
        layer: (keys.expand(rows, -1, -1, -1), values.expand(rows, -1, -1, -1))
        for layer, (keys, values) in cache.layers.items()
    }
    return shared
