"""Bytes in serving, against caches of transformers and of this course's decoder, and tensors that are really there."""

import pytest
import torch
from accounting_cases import SHAPE, TINY
from transformers import DeepseekV3Config, DynamicCache, LlamaConfig, LlamaForCausalLM

from peft_lessons import LoRAConfig, adapter_state_dict, inject
from peft_lessons.accounting import BF16, FP32, NF4_DOUBLE, cache_bytes, model_shape, serving_memory
from peft_lessons.accounting.config_file import shape_from_config
from peft_lessons.models.decoder import Decoder, KeyValueCache

IDS = torch.randint(TINY.vocab_size, (3, 11), generator=torch.Generator().manual_seed(0))
HELD = cache_bytes(SHAPE, conversations=3, tokens=11, cache=FP32)
RANK = LoRAConfig(rank=16)


def nbytes(tensors) -> int:
    return sum(tensor.nbytes for tensor in tensors)


def test_our_cache():
    cache = KeyValueCache()
    with torch.no_grad():
        Decoder(TINY)(IDS, cache=cache)
    assert HELD == nbytes(tensor for pair in cache.layers.values() for tensor in pair) > 0


def test_transformers_cache():
    sizes = {name: getattr(TINY, name) for name in ("vocab_size", "hidden_size", "intermediate_size")}
    heads = {name: getattr(TINY, name) for name in ("num_hidden_layers", "num_attention_heads", "num_key_value_heads")}
    config = LlamaConfig(**sizes, **heads)
    cache = DynamicCache(config=config)
    with torch.no_grad():
        LlamaForCausalLM(config)(IDS, past_key_values=cache)
    assert nbytes(tensor for layer in cache.layers for tensor in (layer.keys, layer.values)) == HELD


def test_latent_attention_keeps_what_keys_and_values_are_made_from(tmp_path):
    """DeepSeek's own sizes; arXiv:2405.04434, Table 1: 9/2 · d_h numbers a token and layer."""
    config = DeepseekV3Config()
    shape = shape_from_config(_saved(config, tmp_path))
    assert cache_bytes(shape) == 2 * config.num_hidden_layers * (config.kv_lora_rank + config.qk_rope_head_dim)
    assert config.kv_lora_rank + config.qk_rope_head_dim == 9 / 2 * 128


def _saved(config, folder):
    config.architectures = ["DeepseekV3ForCausalLM"]
    config.save_pretrained(folder)
    return folder / "config.json"


def test_the_base_once_and_adapters_beside_it():
    """The bytes of the tensors, in 16 bits."""
    config = LoRAConfig(rank=4)
    model = inject(Decoder(TINY), config)
    adapter = 2 * sum(tensor.numel() for tensor in adapter_state_dict(model).values())
    base = 2 * sum(parameter.numel() for parameter in Decoder(TINY).parameters())
    held = serving_memory(SHAPE, config, adapters=7, conversations=3, tokens=11)
    assert (held.base, held.adapters, held.cache) == (base, 7 * adapter, HELD // 2)
    assert held.total == base + 7 * adapter + HELD // 2


def test_what_each_part_depends_on():
    shape = model_shape("Llama-3.1-8B")
    settings = {"adapters": 10, "conversations": 5, "tokens": 1000}
    plain = serving_memory(shape, RANK, **settings)
    quantized = serving_memory(shape, RANK, **settings, storage=NF4_DOUBLE)
    assert quantized.base < 0.4 * plain.base and quantized.cache == plain.cache
    assert serving_memory(shape, RANK, adapters=0, conversations=0, tokens=9).total == plain.base
    assert cache_bytes(shape, conversations=5, tokens=1000) == 5000 * cache_bytes(shape, cache=BF16)


@pytest.mark.parametrize("name", ["adapters", "conversations", "tokens"])
def test_counts_below_zero(name: str):
    settings = {"adapters": 1, "conversations": 1, "tokens": 1} | {name: -1}
    with pytest.raises(ValueError, match=f"{name} must be at least 0, got -1"):
        serving_memory(SHAPE, RANK, **settings)
