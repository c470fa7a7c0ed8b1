"""How the layers of each architecture are shaped: one table, by the `model_type` of Hugging Face's `config.json`.

Most decoders are Llama's with a switch or two: a bias, another place for the norms, norms of queries and keys, fused
matrices, experts. GPT-2 and BERT's kind have a page of their own. Modules carry transformers' names.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from peft_lessons.accounting.modules import Module, Role

if TYPE_CHECKING:
    from peft_lessons.accounting.shapes import ModelShape

Defaults = Mapping[str, int | bool]


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """What is common to all models of one `model_type`."""

    # What transformers takes where a file is silent. A number that differs from one size of a model to the next is only
    # here if published files rely on it.
    defaults: Defaults = field(default_factory=dict)
    learned_positions: bool = False  # a table of weights, which has no row for a longer text
    lost_positions: int = 0  # rows of that table that no token gets

    def modules(self, s: ModelShape) -> Iterator[Module]:
        """Every module, in the order in which a forward pass is done with it."""
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class Llama(Architecture):
    """RMSNorm, rotary positions, a gated feed-forward part; how a family's blocks differ from Llama's."""

    qkv_bias: bool | None = None  # None: as `attention_bias` of the shape says
    output_bias: bool | None = None
    norms: Literal["before", "after", "around"] = "before"  # attention and feed-forward part
    norm_of_heads: Literal["", "each", "all"] = ""  # RMSNorm of queries and keys: over each head, or over all at once
    fused: bool = False  # queries, keys and values are one matrix, gate and up another
    mlp: str = "mlp"
    router: str = "gate"
    shared_expert: str = ""
    gated_shared_expert: bool = False
    experts_transposed: bool = False

    def modules(self, s: ModelShape) -> Iterator[Module]:
        d = s.hidden_size
        yield Module("model.embed_tokens", "embedding", s.vocab_size, d)
        for i in range(s.num_hidden_layers):
            yield from self._block(s, i)
        yield Module("model.norm", "norm", d, d)
        yield Module("lm_head", "linear", d, s.vocab_size, "head", tied=s.tie_word_embeddings)

    def _block(self, s: ModelShape, i: int) -> Iterator[Module]:
        d, layer = s.hidden_size, f"model.layers.{i}"
        before, after = self.norms != "after", self.norms != "before"
        if before:
            yield Module(f"{layer}.input_layernorm", "norm", d, d)
        yield from self._latent(s, layer) if s.latent else self._grouped(s, layer)
        yield Module(f"{layer}.self_attn", "block", d, d)
        yield Module(f"{layer}.post_attention_layernorm", "norm", d, d)
        if before and after:
            yield Module(f"{layer}.pre_feedforward_layernorm", "norm", d, d)
        yield from self._feed_forward(s, i, f"{layer}.{self.mlp}")
        yield Module(f"{layer}.{self.mlp}", "block", d, d)
        if after:
            yield Module(f"{layer}.post_feedforward_layernorm", "norm", d, d)
        yield Module(layer, "block", d, d)

    def _biases(self, s: ModelShape) -> tuple[bool, bool]:
        qkv, output = (s.attention_bias if fixed is None else fixed for fixed in (self.qkv_bias, self.output_bias))
        return qkv, output

    def _grouped(self, s: ModelShape, layer: str) -> Iterator[Module]:
        d, queries, keys, attention = s.hidden_size, s.attention_size, s.key_value_size, f"{layer}.self_attn"
        qkv, output = self._biases(s)
        if self.fused:
            yield Module(f"{attention}.qkv_proj", "linear", d, queries + 2 * keys, "query_key_value", qkv)
        else:
            yield Module(f"{attention}.q_proj", "linear", d, queries, "query", qkv)
            yield from self._head_norm(s, f"{attention}.q_norm", queries, "query_norm")
            yield Module(f"{attention}.k_proj", "linear", d, keys, "key", qkv)
            yield from self._head_norm(s, f"{attention}.k_norm", keys, "key_norm")
            yield Module(f"{attention}.v_proj", "linear", d, keys, "value", qkv)
        yield Module(f"{attention}.o_proj", "linear", queries, d, "output", output)

    def _head_norm(
        self, s: ModelShape, name: str, width: int, role: Literal["query_norm", "key_norm"]
    ) -> Iterator[Module]:
        if self.norm_of_heads:
            one = s.head_dim if self.norm_of_heads == "each" else width
            yield Module(name, "norm", one, one, role, times=width // one)

    def _latent(self, s: ModelShape, layer: str) -> Iterator[Module]:
        """DeepSeek's latent attention (arXiv:2405.04434, §2.1): queries, keys and values through a low rank."""
        assert s.latent is not None
        d, latent, attention = s.hidden_size, s.latent, f"{layer}.self_attn"
        bias, output = self._biases(s)
        if (rank := latent.query_rank) is None:
            yield Module(f"{attention}.q_proj", "linear", d, s.attention_size, "query")
        else:
            yield Module(f"{attention}.q_a_proj", "linear", d, rank, "query_latent", bias)
            yield Module(f"{attention}.q_a_layernorm", "norm", rank, rank, "query_latent_norm")
            yield Module(f"{attention}.q_b_proj", "linear", rank, s.attention_size, "query", input="query_latent_norm")
        rank, keys_values = (
            latent.key_value_rank,
            s.attention_size - s.num_attention_heads * latent.rotary_dim + s.mixed_size,
        )
        yield Module(f"{attention}.kv_a_proj_with_mqa", "linear", d, rank + latent.rotary_dim, "key_value_latent", bias)
        yield Module(f"{attention}.kv_a_layernorm", "norm", rank, rank, "key_value_latent_norm")
        yield Module(f"{attention}.kv_b_proj", "linear", rank, keys_values, "key_value")
        yield Module(f"{attention}.o_proj", "linear", s.mixed_size, d, "output", output)

    def _feed_forward(self, s: ModelShape, i: int, name: str) -> Iterator[Module]:
        d, experts = s.hidden_size, s.experts
        if experts is None or i not in experts.layers:
            yield from self._gated(name, d, s.intermediate_size, s.mlp_bias)
            return
        f, turned = experts.intermediate_size, self.experts_transposed
        yield Module(f"{name}.{self.router}", "router", d, experts.count, "router")
        yield Module(
            f"{name}.experts", "experts", d, f, "experts", stored_transposed=turned,
            count=experts.count, times=experts.per_token,
        )  # fmt: skip
        if experts.shared_size:
            yield from self._gated(f"{name}.{self.shared_expert}", d, experts.shared_size, bias=False)
            if self.gated_shared_expert:
                yield Module(f"{name}.{self.shared_expert}_gate", "linear", d, 1, "router")

    def _gated(self, name: str, d: int, f: int, bias: bool) -> Iterator[Module]:
        if self.fused:
            yield Module(f"{name}.gate_up_proj", "linear", d, 2 * f, "gate_up", bias)
        else:
            yield Module(f"{name}.gate_proj", "linear", d, f, "gate", bias)
            yield Module(f"{name}.up_proj", "linear", d, f, "up", bias)
        yield Module(f"{name}.down_proj", "linear", f, d, "down", bias)


@dataclass(frozen=True, kw_only=True)
class GPT2(Architecture):
    """GPT-2 and GPT-3: LayerNorm, a fused matrix for queries, keys and values, a table of positions."""

    def modules(self, s: ModelShape) -> Iterator[Module]:
        d, f = s.hidden_size, s.intermediate_size

        def turned(name: str, inputs: int, outputs: int, role: Role) -> Module:
            return Module(name, "linear", inputs, outputs, role, bias=True, stored_transposed=True)

        yield Module("transformer.wte", "embedding", s.vocab_size, d)
        yield Module("transformer.wpe", "embedding", s.max_position_embeddings, d)
        for layer in (f"transformer.h.{i}" for i in range(s.num_hidden_layers)):
            yield Module(f"{layer}.ln_1", "norm", d, d, bias=True)
            yield turned(f"{layer}.attn.c_attn", d, 3 * d, "query_key_value")
            yield from (Module(f"{layer}.attn.c_attn.{part}", "slice", d, d, "query_key_value") for part in "qkv")
            yield turned(f"{layer}.attn.c_proj", d, d, "output")
            yield Module(f"{layer}.attn", "block", d, d)
            yield Module(f"{layer}.ln_2", "norm", d, d, bias=True)
            yield turned(f"{layer}.mlp.c_fc", d, f, "up")
            yield turned(f"{layer}.mlp.c_proj", f, d, "down")
            yield Module(f"{layer}.mlp", "block", d, d)
            yield Module(layer, "block", d, d)
        yield Module("transformer.ln_f", "norm", d, d, bias=True)
        yield Module("lm_head", "linear", d, s.vocab_size, "head", tied=s.tie_word_embeddings)


@dataclass(frozen=True, kw_only=True)
class Encoder(Architecture):
    """BERT and RoBERTa: the encoder alone, without pooler and without head."""

    def modules(self, s: ModelShape) -> Iterator[Module]:
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


UNTIED = {"tie_word_embeddings": False}
TIED = {"tie_word_embeddings": True}
GEMMA3 = TIED | {  # files of the models that see, too, leave these out
    "vocab_size": 262_208,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 256,
    "max_position_embeddings": 131_072,
}
LAYOUTS: dict[str, Architecture] = {
    "llama": Llama(defaults=UNTIED | {"max_position_embeddings": 2048}),
    "mistral": Llama(qkv_bias=False, output_bias=False, defaults=UNTIED | {"max_position_embeddings": 131_072}),
    "qwen2": Llama(qkv_bias=True, output_bias=False, defaults=UNTIED | {"max_position_embeddings": 32_768}),
    "gemma2": Llama(norms="around", defaults=TIED | {"max_position_embeddings": 8192}),
    "gpt2": GPT2(defaults=TIED, learned_positions=True),
    "roberta": Encoder(defaults=TIED, learned_positions=True, lost_positions=2),  # its padding's, and one before
    "bert": Encoder(defaults=TIED | {"type_vocab_size": 2}, learned_positions=True),
    "gemma": Llama(defaults=TIED | {"max_position_embeddings": 8192}),
    "gemma3_text": Llama(norms="around", norm_of_heads="each", defaults=GEMMA3),
    "qwen3": Llama(norm_of_heads="each", defaults=UNTIED | {"head_dim": 128, "max_position_embeddings": 32_768}),
    "phi3": Llama(qkv_bias=False, output_bias=False, fused=True, defaults=UNTIED | {"max_position_embeddings": 4096}),
    "olmo2": Llama(norms="after", norm_of_heads="all", defaults=UNTIED | {"max_position_embeddings": 2048}),
    "smollm3": Llama(defaults=TIED | {"max_position_embeddings": 32_768}),
    "mixtral": Llama(
        qkv_bias=False,
        output_bias=False,
        defaults=UNTIED | {"num_local_experts": 8, "num_experts_per_tok": 2, "max_position_embeddings": 131_072},
    ),
    "qwen2_moe": Llama(
        output_bias=False,
        shared_expert="shared_expert",
        gated_shared_expert=True,
        defaults=UNTIED | {"attention_bias": True, "max_position_embeddings": 32_768},
    ),
    "qwen3_moe": Llama(norm_of_heads="each", defaults=UNTIED | {"max_position_embeddings": 32_768}),
    "deepseek_v3": Llama(shared_expert="shared_experts", defaults=UNTIED | {"max_position_embeddings": 4096}),
    "llama4_text": Llama(
        mlp="feed_forward",
        router="router",
        shared_expert="shared_expert",
        experts_transposed=True,
        defaults=UNTIED | {"head_dim": 128, "num_experts_per_tok": 1, "max_position_embeddings": 131_072},
    ),
}
