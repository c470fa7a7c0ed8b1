"""The shapes of a model: every module that holds weights, by Hugging Face's names, without a single weight.

    parameters = Σ over linear layers (in + 1 if biased) · out  +  Σ over norms  +  Σ over embeddings

Totals equal transformers' models to the last parameter. BERT and RoBERTa are the encoder alone, without pooler and
without head. How the layers of each architecture are made is in `architectures`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cached_property

from peft_lessons.accounting.architectures import LAYOUTS, Architecture, Llama
from peft_lessons.accounting.modules import Kind, Module, Shapes, size
from peft_lessons.accounting.storage import Stored
from peft_lessons.checks import check_count
from peft_lessons.models.decoder import DecoderConfig


@dataclass(frozen=True, kw_only=True)
class Experts:
    """A router and many small feed-forward networks in place of a large one (arXiv:1701.06538).

    Raises:
        ValueError: for a count below 1, and for a token that is sent to more experts than there are.

    Examples:
        >>> from peft_lessons.accounting import Experts
        >>> Experts(count=8, per_token=2, intermediate_size=14336, layers=frozenset(range(32))).per_token
        2
    """

    count: int
    per_token: int  # how many of them a token is sent to
    intermediate_size: int  # of each
    layers: frozenset[int]  # that have experts; the others have one network of the shape's `intermediate_size`
    shared_size: int = 0  # intermediate size of a network that every token passes beside them; 0: there is none

    def __post_init__(self) -> None:
        for name in ("count", "per_token", "intermediate_size"):
            check_count(name, getattr(self, name))
        check_count("shared_size", self.shared_size, least=0)
        if self.per_token > self.count:
            raise ValueError(f"a token cannot be sent to {self.per_token} of {self.count} experts")


@dataclass(frozen=True, kw_only=True)
class Latent:
    """The widths of DeepSeek's latent attention (arXiv:2405.04434, §2.1); those without "rank" are of one head.

    Examples:
        >>> from peft_lessons.accounting import Latent
        >>> Latent(query_rank=1536, key_value_rank=512, rotary_dim=64, value_dim=128).value_dim
        128
    """

    query_rank: int | None  # None: queries are computed at once
    key_value_rank: int
    rotary_dim: int  # of queries and keys, the part that is turned by its position
    value_dim: int


@dataclass(frozen=True, kw_only=True)
class ModelShape:
    """What a model's `config.json` says about its size, with Hugging Face's field names.

    Raises:
        ValueError: for a `model_type` that is not counted here, a size below 1, and query heads that do not split
            into groups.

    Examples:
        >>> from peft_lessons.accounting import ModelShape, model_shape
        >>> shape = model_shape("Llama-3.1-8B")
        >>> isinstance(shape, ModelShape)
        True
        >>> shape.parameters, shape.linear_targets[:2]
        (8030261248, ('q_proj', 'k_proj'))
    """

    model_type: str  # one of `LAYOUTS`
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int  # of queries and keys
    max_position_embeddings: int = 2048  # tokens; a table of weights in GPT-2, BERT and RoBERTa only
    type_vocab_size: int = 1  # BERT and RoBERTa only
    tie_word_embeddings: bool = True
    attention_bias: bool = False  # where the architecture leaves it open: Mistral and Qwen2, say, do not
    mlp_bias: bool = False
    experts: Experts | None = None
    latent: Latent | None = None
    stored: Stored | None = None  # how a quantized checkpoint holds its weights

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
    def architecture(self) -> Architecture:
        return LAYOUTS[self.model_type]

    @property
    def attention_size(self) -> int:
        """Width of the queries of all heads together; hidden_size in most models."""
        return self.num_attention_heads * self.head_dim

    @property
    def key_value_size(self) -> int:
        return self.num_key_value_heads * self.head_dim

    @property
    def value_size(self) -> int:
        return self.num_key_value_heads * self.value_dim

    @property
    def mixed_size(self) -> int:
        """Width of what attention makes of the values, all heads together."""
        return self.num_attention_heads * self.value_dim

    @property
    def value_dim(self) -> int:
        return self.latent.value_dim if self.latent else self.head_dim

    @property
    def longest_text(self) -> int:
        """How many tokens the model was made for."""
        return self.max_position_embeddings - self.architecture.lost_positions

    @property
    def is_llama_like(self) -> bool:
        """RMSNorm, rotary positions, a gated feed-forward part and no dropout, as this course's decoder."""
        return isinstance(self.architecture, Llama)

    @cached_property
    def modules(self) -> tuple[Module, ...]:
        """Every module, in the order in which a forward pass is done with it: a block after what is in it."""
        return tuple(self.architecture.modules(self))

    @cached_property
    def tensors(self) -> Shapes:
        """Every parameter: name → shape, as in `Module.tensors`."""
        return {name: shape for module in self.modules for name, shape in module.tensors.items()}

    @cached_property
    def parameters(self) -> int:
        return size(self.tensors)

    @cached_property
    def active_parameters(self) -> int:
        """Those that one token passes: all but the experts that it is not sent to."""
        return sum(module.active_parameters for module in self.modules)

    @cached_property
    def linear_parameters(self) -> int:
        """Weights of the linear layers inside the blocks: what QLoRA quantizes. Not their biases, not the head."""
        return sum(module.in_features * module.out_features for module in self.block_linears)

    @property
    def block_linears(self) -> list[Module]:
        return [module for module in self.modules if module.kind == "linear" and module.layer is not None]

    @property
    def linear_targets(self) -> tuple[str, ...]:
        """Targets that name all linear layers of the blocks, but those with a single output.

        GPT-2's c_attn comes as its three slices, each adapted on its own as in LoRA's paper. `inject` on a GPT-2 of
        transformers takes c_attn whole: name ("c_attn", "c_proj", "c_fc") to count that.
        """
        sliced = {module.name.rpartition(".")[0] for module in self.modules if module.kind == "slice"}
        names = (
            ".".join(module.name.split(".")[-2 if module.kind == "slice" else -1 :])
            for module in self.modules
            if module.layer is not None
            and module.kind in ("linear", "slice")
            and module.name not in sliced
            and module.out_features > 1
        )
        return tuple(dict.fromkeys(names))

    def select(self, targets: tuple[str, ...], *kinds: Kind) -> list[Module]:
        """Select the modules of these kinds whose names end with a target, each once.

        Raises:
            ValueError: when a target matches none; the message lists what there is.
        """
        possible = [module for module in self.modules if module.kind in kinds]
        for target in targets:
            if not any(module.matches(target) for module in possible):
                shown = [module for module in possible if module.layer in (None, 0)]
                suffixes = dict.fromkeys(_suffix(module, shown) for module in shown)
                raise ValueError(f"no module ends with {target!r}; {self.model_type} has {', '.join(suffixes)}")
        return [module for module in possible if any(module.matches(target) for target in targets)]


def _suffix(module: Module, among: list[Module]) -> str:
    """Return the last part of a name, or the last two where the last alone names another place in the layer too."""
    parts = module.name.split(".")
    alone = sum(other.matches(parts[-1]) for other in among) == 1 and module.kind != "slice"
    return ".".join(parts[-1 if alone else -2 :])


def _shape(
    model_type: str,
    vocab: int,
    d: int,
    layers: int,
    heads: int,
    kv: int,
    d_ff: int,
    tied: bool,
    tokens: int,
    **rest: int,
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
        max_position_embeddings=tokens,
        tie_word_embeddings=tied,
    )


# fmt: off
MODELS: Mapping[str, ModelShape] = {
    #                                    vocab      d    L  heads  kv   d_ff  tied   tokens
    "GPT-2 small":    _shape("gpt2",     50257,   768,  12,  12,  12,  3072, True,    1024),
    "GPT-3 175B":     _shape("gpt2",     50257, 12288,  96,  96,  96, 49152, True,    2048),
    "RoBERTa-large":  _shape("roberta",  50265,  1024,  24,  16,  16,  4096, True,     514),
    "LLaMA-7B":       _shape("llama",    32000,  4096,  32,  32,  32, 11008, False,   2048),
    "LLaMA-13B":      _shape("llama",    32000,  5120,  40,  40,  40, 13824, False,   2048),
    "LLaMA-33B":      _shape("llama",    32000,  6656,  60,  52,  52, 17920, False,   2048),
    "LLaMA-65B":      _shape("llama",    32000,  8192,  80,  64,  64, 22016, False,   2048),
    "Llama-3.1-8B":   _shape("llama",   128256,  4096,  32,  32,   8, 14336, False, 131072),
    "Llama-3.1-70B":  _shape("llama",   128256,  8192,  80,  64,   8, 28672, False, 131072),
    "Llama-3.1-405B": _shape("llama",   128256, 16384, 126, 128,   8, 53248, False, 131072),
    "Llama-3.2-3B":   _shape("llama",   128256,  3072,  28,  24,   8,  8192, True,  131072),
    "Mistral-7B v0.1": _shape("mistral", 32000,  4096,  32,  32,   8, 14336, False,  32768),
    "Qwen2.5-7B":     _shape("qwen2",   152064,  3584,  28,  28,   4, 18944, False, 131072),
    "Qwen2.5-72B":    _shape("qwen2",   152064,  8192,  80,  64,   8, 29568, False, 131072),
    "SmolLM2-135M":   _shape("llama",    49152,   576,  30,   9,   3,  1536, True,    8192),
    "SmolLM2-360M":   _shape("llama",    49152,   960,  32,  15,   5,  2560, True,    8192),
    "SmolLM2-1.7B":   _shape("llama",    49152,  2048,  24,  32,  32,  8192, True,    8192),
    "Gemma-2-9B":     _shape("gemma2",  256000,  3584,  42,  16,   8, 14336, True,    8192, head_dim=256),
}
# fmt: on
"""Eighteen models by their published configs; GPT-3 by the sizes in its paper (arXiv:2005.14165, Table 2.1), built as
GPT-2, which gives 174.6 B."""


def model_shape(name: str) -> ModelShape:
    """One of `MODELS`.

    Raises:
        ValueError: for another name; the message lists them.

    Examples:
        >>> from peft_lessons.accounting import model_shape
        >>> model_shape("Llama-3.1-8B").hidden_size
        4096
    """
    if name not in MODELS:
        raise ValueError(f"no model is called {name!r}; there are {', '.join(MODELS)}, and shape_from_config(path)")
    return MODELS[name]


def decoder_shape(config: DecoderConfig) -> ModelShape:
    """Return the shape of one of this course's decoders.

    Examples:
        >>> from peft_lessons.accounting import decoder_shape
        >>> from peft_lessons.models import DecoderConfig
        >>> sizes = {"vocab_size": 10, "hidden_size": 8, "intermediate_size": 12, "num_hidden_layers": 2}
        >>> decoder_shape(DecoderConfig(**sizes, num_attention_heads=2, num_key_value_heads=1)).parameters
        1080
    """
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
