"""The shapes of a model: every module that holds weights, by Hugging Face's names, without a single weight.

    parameters = Σ over linear layers (in + 1 if biased) · out  +  Σ over norms  +  Σ over embeddings

Totals equal transformers' models to the last parameter. RoBERTa is the encoder alone, without pooler and without head.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from functools import cached_property
from math import prod
from typing import Literal, TypeAlias

from peft_lessons.checks import check_count
from peft_lessons.models.decoder import DecoderConfig

Shapes: TypeAlias = Mapping[str, tuple[int, ...]]
Kind = Literal["linear", "slice", "norm", "embedding", "block"]
Role = Literal["", "query", "key", "value", "query_key_value", "output", "gate", "up", "down", "head"]


@dataclass(frozen=True)
class Module:
    """One place in a model. `in_features` and `out_features` of a norm or a block are the width that it keeps.

    A "slice" is a third of GPT-2's fused c_attn, and a "block" an attention or feed-forward part, or a whole layer:
    both can be adapted, but hold no weights beside those of the modules in them.
    """

    name: str
    kind: Kind
    in_features: int
    out_features: int
    role: Role = ""
    bias: bool = False
    tied: bool = False  # the weight is another module's and counts there
    stored_transposed: bool = False  # GPT-2's Conv1D keeps (in, out)

    @property
    def tensors(self) -> dict[str, tuple[int, ...]]:
        """Its own parameters: name → shape; linear weights are (out, in), as everywhere in this course."""
        weight = {
            "linear": (self.out_features, self.in_features),
            "embedding": (self.in_features, self.out_features),
            "norm": (self.out_features,),
        }.get(self.kind)
        if weight is None or self.tied:
            return {}
        return {f"{self.name}.weight": weight} | ({f"{self.name}.bias": (self.out_features,)} if self.bias else {})

    @property
    def parameters(self) -> int:
        return size(self.tensors)

    def matches(self, target: str) -> bool:
        """Whether its name ends with `target`, cut at dots: the rule of `inject`."""
        return f".{self.name}".endswith(f".{target}")

    @property
    def layer(self) -> int | None:
        """The number of the transformer layer that it is in, if it is in one."""
        return next((int(part) for part in self.name.split(".") if part.isdigit()), None)


def size(tensors: Shapes) -> int:
    """How many numbers tensors of these shapes hold."""
    return sum(prod(shape) for shape in tensors.values())


@dataclass(frozen=True, kw_only=True)
class ModelShape:
    """What a model's `config.json` says about its size, with Hugging Face's field names."""

    model_type: str  # "llama", "mistral", "qwen2", "gemma2", "gpt2" or "roberta"
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    max_position_embeddings: int = 2048  # tokens; a table of weights in GPT-2 and RoBERTa only
    type_vocab_size: int = 1  # RoBERTa only
    tie_word_embeddings: bool = True
    attention_bias: bool = False  # Llama and Gemma 2 only; the others have fixed biases
    mlp_bias: bool = False  # Llama only

    def __post_init__(self) -> None:
        if self.model_type not in LAYOUTS:
            raise ValueError(f"model_type {self.model_type!r} is not one that is counted here: {', '.join(LAYOUTS)}")
        for one in fields(self):
            if one.type == "int":
                check_count(one.name, getattr(self, one.name))
        if self.num_attention_heads % self.num_key_value_heads:
            raise ValueError(
                f"{self.num_attention_heads} query heads cannot share {self.num_key_value_heads} key/value heads evenly"
            )

    @property
    def attention_size(self) -> int:
        """Width of all query heads together; hidden_size in most models."""
        return self.num_attention_heads * self.head_dim

    @property
    def key_value_size(self) -> int:
        return self.num_key_value_heads * self.head_dim

    @property
    def is_llama_like(self) -> bool:
        """RMSNorm, rotary positions, SwiGLU and no dropout, one block like this course's decoder."""
        return self.model_type in ("llama", "mistral", "qwen2", "gemma2")

    @cached_property
    def modules(self) -> tuple[Module, ...]:
        """Every module, in the order in which a forward pass is done with it: a block after what is in it."""
        return tuple(LAYOUTS[self.model_type](self))

    @cached_property
    def parameters(self) -> int:
        return sum(module.parameters for module in self.modules)

    @cached_property
    def linear_parameters(self) -> int:
        """Weights of the linear layers inside the blocks: what QLoRA quantizes. Not their biases, not the head."""
        return sum(module.in_features * module.out_features for module in self.block_linears)

    @property
    def block_linears(self) -> list[Module]:
        return [module for module in self.modules if module.kind == "linear" and module.layer is not None]

    @property
    def linear_targets(self) -> tuple[str, ...]:
        """Targets that name all linear layers of the blocks.

        GPT-2's c_attn comes as its three slices, each adapted on its own as in LoRA's paper. `inject` on a GPT-2 of
        transformers takes c_attn whole: name ("c_attn", "attn.c_proj", "c_fc", "mlp.c_proj") to count that.
        """
        if self.model_type == "gpt2":
            return ("c_attn.q", "c_attn.k", "c_attn.v", "attn.c_proj", "c_fc", "mlp.c_proj")
        if self.model_type == "roberta":
            return ("query", "key", "value", "dense")
        return ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")

    def select(self, targets: tuple[str, ...], *kinds: Kind) -> list[Module]:
        """The modules of these kinds whose names end with a target, each once.

        Raises ValueError when a target matches none; the message lists what there is.
        """
        possible = [module for module in self.modules if module.kind in kinds]
        for target in targets:
            if not any(module.matches(target) for module in possible):
                shown = [module for module in possible if module.layer in (None, 0)]
                suffixes = dict.fromkeys(_suffix(module, shown) for module in shown)
                raise ValueError(f"no module ends with {target!r}; {self.model_type} has {', '.join(suffixes)}")
        return [module for module in possible if any(module.matches(target) for target in targets)]


def _suffix(module: Module, among: list[Module]) -> str:
    """The last part of a name, or the last two where the last alone names another place in the layer too."""
    parts = module.name.split(".")
    alone = sum(other.matches(parts[-1]) for other in among) == 1 and module.kind != "slice"
    return ".".join(parts[-1 if alone else -2 :])


def _llama(s: ModelShape, *, qkv_bias: bool | None = None, four_norms: bool = False) -> Iterator[Module]:
    d, f, attention, kv = s.hidden_size, s.intermediate_size, s.attention_size, s.key_value_size
    qkv = s.attention_bias if qkv_bias is None else qkv_bias
    o_bias = s.attention_bias if qkv_bias is None else False
    yield Module("model.embed_tokens", "embedding", s.vocab_size, d)
    for layer in (f"model.layers.{i}" for i in range(s.num_hidden_layers)):
        yield Module(f"{layer}.input_layernorm", "norm", d, d)
        yield Module(f"{layer}.self_attn.q_proj", "linear", d, attention, "query", qkv)
        yield Module(f"{layer}.self_attn.k_proj", "linear", d, kv, "key", qkv)
        yield Module(f"{layer}.self_attn.v_proj", "linear", d, kv, "value", qkv)
        yield Module(f"{layer}.self_attn.o_proj", "linear", attention, d, "output", o_bias)
        yield Module(f"{layer}.self_attn", "block", d, d)
        yield Module(f"{layer}.post_attention_layernorm", "norm", d, d)
        if four_norms:
            yield Module(f"{layer}.pre_feedforward_layernorm", "norm", d, d)
        yield Module(f"{layer}.mlp.gate_proj", "linear", d, f, "gate", s.mlp_bias)
        yield Module(f"{layer}.mlp.up_proj", "linear", d, f, "up", s.mlp_bias)
        yield Module(f"{layer}.mlp.down_proj", "linear", f, d, "down", s.mlp_bias)
        yield Module(f"{layer}.mlp", "block", d, d)
        if four_norms:
            yield Module(f"{layer}.post_feedforward_layernorm", "norm", d, d)
        yield Module(layer, "block", d, d)
    yield Module("model.norm", "norm", d, d)
    yield Module("lm_head", "linear", d, s.vocab_size, "head", tied=s.tie_word_embeddings)


def _mistral(s: ModelShape) -> Iterator[Module]:
    return _llama(s, qkv_bias=False)


def _qwen2(s: ModelShape) -> Iterator[Module]:
    return _llama(s, qkv_bias=True)


def _gemma2(s: ModelShape) -> Iterator[Module]:
    return _llama(s, four_norms=True)


def _gpt2(s: ModelShape) -> Iterator[Module]:
    d, f = s.hidden_size, s.intermediate_size
    yield Module("transformer.wte", "embedding", s.vocab_size, d)
    yield Module("transformer.wpe", "embedding", s.max_position_embeddings, d)
    for layer in (f"transformer.h.{i}" for i in range(s.num_hidden_layers)):
        yield Module(f"{layer}.ln_1", "norm", d, d, bias=True)
        yield Module(f"{layer}.attn.c_attn", "linear", d, 3 * d, "query_key_value", bias=True, stored_transposed=True)
        yield from (Module(f"{layer}.attn.c_attn.{part}", "slice", d, d) for part in "qkv")
        yield Module(f"{layer}.attn.c_proj", "linear", d, d, "output", bias=True, stored_transposed=True)
        yield Module(f"{layer}.attn", "block", d, d)
        yield Module(f"{layer}.ln_2", "norm", d, d, bias=True)
        yield Module(f"{layer}.mlp.c_fc", "linear", d, f, "up", bias=True, stored_transposed=True)
        yield Module(f"{layer}.mlp.c_proj", "linear", f, d, "down", bias=True, stored_transposed=True)
        yield Module(f"{layer}.mlp", "block", d, d)
        yield Module(layer, "block", d, d)
    yield Module("transformer.ln_f", "norm", d, d, bias=True)
    yield Module("lm_head", "linear", d, s.vocab_size, "head", tied=s.tie_word_embeddings)


def _roberta(s: ModelShape) -> Iterator[Module]:
    d, f = s.hidden_size, s.intermediate_size
    yield Module("embeddings.word_embeddings", "embedding", s.vocab_size, d)
    yield Module("embeddings.position_embeddings", "embedding", s.max_position_embeddings, d)
    yield Module("embeddings.token_type_embeddings", "embedding", s.type_vocab_size, d)
    yield Module("embeddings.LayerNorm", "norm", d, d, bias=True)
    for layer in (f"encoder.layer.{i}" for i in range(s.num_hidden_layers)):
        yield Module(f"{layer}.attention.self.query", "linear", d, d, "query", bias=True)
        yield Module(f"{layer}.attention.self.key", "linear", d, d, "key", bias=True)
        yield Module(f"{layer}.attention.self.value", "linear", d, d, "value", bias=True)
        yield Module(f"{layer}.attention.output.dense", "linear", d, d, "output", bias=True)
        yield Module(f"{layer}.attention.output.LayerNorm", "norm", d, d, bias=True)
        yield Module(f"{layer}.attention", "block", d, d)
        yield Module(f"{layer}.intermediate.dense", "linear", d, f, "up", bias=True)
        yield Module(f"{layer}.output.dense", "linear", f, d, "down", bias=True)
        yield Module(f"{layer}.output.LayerNorm", "norm", d, d, bias=True)
        yield Module(layer, "block", d, d)


LAYOUTS = {
    "llama": _llama,
    "mistral": _mistral,
    "qwen2": _qwen2,
    "gemma2": _gemma2,
    "gpt2": _gpt2,
    "roberta": _roberta,
}


def _shape(
    model_type: str, vocab: int, d: int, layers: int, heads: int, kv: int, d_ff: int, tied: bool, **rest: int
) -> ModelShape:
    return ModelShape(
        model_type=model_type,
        vocab_size=vocab,
        hidden_size=d,
        intermediate_size=d_ff,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv,
        head_dim=rest.get("head_dim", d // heads),
        max_position_embeddings=rest.get("max_position_embeddings", 2048),
        tie_word_embeddings=tied,
    )


# fmt: off
MODELS: Mapping[str, ModelShape] = {
    #                                   vocab      d    L  heads  kv   d_ff  tied
    "GPT-2 small":   _shape("gpt2",     50257,   768,  12,  12,  12,  3072, True, max_position_embeddings=1024),
    "GPT-3 175B":    _shape("gpt2",     50257, 12288,  96,  96,  96, 49152, True),
    "RoBERTa-large": _shape("roberta",  50265,  1024,  24,  16,  16,  4096, True, max_position_embeddings=514),
    "LLaMA-7B":      _shape("llama",    32000,  4096,  32,  32,  32, 11008, False),
    "LLaMA-13B":     _shape("llama",    32000,  5120,  40,  40,  40, 13824, False),
    "LLaMA-33B":     _shape("llama",    32000,  6656,  60,  52,  52, 17920, False),
    "LLaMA-65B":     _shape("llama",    32000,  8192,  80,  64,  64, 22016, False),
    "Llama-3.1-8B":  _shape("llama",   128256,  4096,  32,  32,   8, 14336, False),
    "Llama-3.1-70B": _shape("llama",   128256,  8192,  80,  64,   8, 28672, False),
    "Llama-3.1-405B": _shape("llama",  128256, 16384, 126, 128,   8, 53248, False),
    "Llama-3.2-3B":  _shape("llama",   128256,  3072,  28,  24,   8,  8192, True),
    "Mistral-7B v0.1": _shape("mistral", 32000, 4096,  32,  32,   8, 14336, False),
    "Qwen2.5-7B":    _shape("qwen2",   152064,  3584,  28,  28,   4, 18944, False),
    "Qwen2.5-72B":   _shape("qwen2",   152064,  8192,  80,  64,   8, 29568, False),
    "SmolLM2-135M":  _shape("llama",    49152,   576,  30,   9,   3,  1536, True),
    "SmolLM2-360M":  _shape("llama",    49152,   960,  32,  15,   5,  2560, True),
    "SmolLM2-1.7B":  _shape("llama",    49152,  2048,  24,  32,  32,  8192, True),
    "Gemma-2-9B":    _shape("gemma2",  256000,  3584,  42,  16,   8, 14336, True, head_dim=256),
}
# fmt: on
"""Eighteen models by their published configs; GPT-3 by the sizes in its paper (arXiv:2005.14165, Table 2.1), built as
GPT-2, which gives 174.6 B."""


def model_shape(name: str) -> ModelShape:
    """One of `MODELS`. Raises ValueError for another name; the message lists them."""
    if name not in MODELS:
        raise ValueError(f"no model is called {name!r}; there are {', '.join(MODELS)}, and shape_from_config(path)")
    return MODELS[name]


def decoder_shape(config: DecoderConfig) -> ModelShape:
    """The shape of one of this course's decoders."""
    return ModelShape(
        model_type="llama",
        vocab_size=config.vocab_size,
        hidden_size=config.hidden_size,
        intermediate_size=config.intermediate_size,
        num_hidden_layers=config.num_hidden_layers,
        num_attention_heads=config.num_attention_heads,
        num_key_value_heads=config.num_key_value_heads,
        head_dim=config.head_dim,
        max_position_embeddings=config.max_position_embeddings,
        tie_word_embeddings=config.tie_word_embeddings,
    )
