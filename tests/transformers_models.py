"""Tiny random models of transformers, of nine kinds: what each reads, its loss, and what its modules are called."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
import transformers
from torch import Tensor, nn

from peft_lessons import (
    ALL_LINEAR,
    AdapterConfig,
    IA3Config,
    LayerNormTuningConfig,
    ParallelAdapterConfig,
    PrefixTuningConfig,
    PromptTuningConfig,
    SerialAdapterConfig,
)
from peft_lessons.training import Loss

VOCABULARY = 40
LLAMA_LIKE = {
    "vocab_size": VOCABULARY,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 8,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}


@dataclass(frozen=True)
class Kind:
    """A kind of model. The names are ends of names of modules, as `targets` takes them."""

    make: Callable[[], nn.Module]
    scaled: tuple[str, ...] = ("k_proj", "v_proj")  # whose outputs IA³ scales
    down: tuple[str, ...] = ("down_proj",)  # from the feed-forward part's width back to the model's
    after: tuple[str, ...] = ("o_proj", "down_proj")  # at the end of each half of a block
    beside: tuple[str, ...] = ("mlp",)  # the feed-forward part, or layers of it where it is no module
    norms: tuple[str, ...] = ("input_layernorm", "post_attention_layernorm", "norm")
    stack: str = "model"  # what reads embeddings and keeps a cache
    head: tuple[str, ...] = ()  # a new one, which trains whole
    inputs: str = "text"

    def config(self, method: AdapterConfig) -> AdapterConfig:
        """Return `method` for this model: everywhere that it may go, and the head beside it."""
        settings: dict[str, Any] = {"targets": ALL_LINEAR}
        match method:
            case IA3Config():
                settings = {"targets": (*self.scaled, *self.down), "feedforward_targets": self.down}
            case LayerNormTuningConfig():
                settings = {"targets": self.norms}
            case SerialAdapterConfig():
                settings = {"targets": self.after}
            case ParallelAdapterConfig():
                settings = {"targets": self.beside}
            case PromptTuningConfig() | PrefixTuningConfig():
                settings = {"targets": (self.stack,)}
        return replace(method, **settings, modules_to_save=self.head)


def decoder(name: str, **more: Any) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        config = transformers.AutoConfig.for_model(name, **LLAMA_LIKE, **more)
        return transformers.AutoModelForCausalLM.from_config(config)

    return make


def gpt2() -> nn.Module:
    return transformers.GPT2LMHeadModel(
        transformers.GPT2Config(
            vocab_size=VOCABULARY, n_embd=16, n_layer=2, n_head=2, n_positions=64, bos_token_id=1, eos_token_id=2
        )
    )


def bert() -> nn.Module:
    return transformers.BertForSequenceClassification(
        transformers.BertConfig(
            vocab_size=VOCABULARY,
            hidden_size=16,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=24,
            num_labels=3,
        )
    )


def t5() -> nn.Module:
    return transformers.T5ForConditionalGeneration(
        transformers.T5Config(
            vocab_size=VOCABULARY, d_model=16, d_kv=8, d_ff=24, num_layers=2, num_heads=2, decoder_start_token_id=0
        )
    )


def vit() -> nn.Module:
    return transformers.ViTForImageClassification(
        transformers.ViTConfig(
            hidden_size=16,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=24,
            image_size=8,
            patch_size=4,
            num_labels=3,
        )
    )


KINDS: dict[str, Kind] = {
    "Llama": Kind(decoder("llama")),
    "Qwen2": Kind(decoder("qwen2")),
    "Qwen3": Kind(decoder("qwen3")),
    "Qwen3-MoE": Kind(
        decoder("qwen3_moe", num_experts=4, num_experts_per_tok=2, moe_intermediate_size=16),
        down=(),
        after=("o_proj",),
    ),
    "Gemma 3": Kind(
        decoder("gemma3_text", sliding_window=16, layer_types=["sliding_attention", "full_attention"]),
        norms=(
            "input_layernorm",
            "post_attention_layernorm",
            "pre_feedforward_layernorm",
            "post_feedforward_layernorm",
            "norm",
        ),
    ),
    "GPT-2": Kind(
        gpt2,
        scaled=("c_attn",),
        down=("mlp.c_proj",),
        after=("c_proj",),
        norms=("ln_1", "ln_2", "ln_f"),
        stack="transformer",
    ),
    "BERT": Kind(
        bert,
        scaled=("key", "value"),
        down=("output.dense",),
        after=("output.dense",),
        beside=("intermediate.dense", "output.dense"),
        norms=("LayerNorm",),
        stack="bert",
        head=("classifier",),
        inputs="text with a label",
    ),
    "T5": Kind(
        t5,
        scaled=("k", "v"),
        down=("wo",),
        after=("o", "DenseReluDense"),
        beside=("DenseReluDense",),
        norms=("layer_norm", "final_layer_norm"),
        stack="decoder",
        inputs="two texts",
    ),
    "ViT": Kind(
        vit,
        scaled=("k_proj", "v_proj"),
        down=("fc2",),
        after=("o_proj", "fc2"),
        norms=("layernorm_before", "layernorm_after", "vit.layernorm"),
        stack="vit",
        head=("classifier",),
        inputs="images with a label",
    ),
}


def model(kind: str) -> nn.Module:
    """The same random model at each call, in eval mode."""
    torch.manual_seed(0)
    return KINDS[kind].make().eval()


def batch(kind: str) -> dict[str, Tensor]:
    """Two examples; of text, one is shorter and padded on the right."""
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(3, VOCABULARY, (2, 8), generator=generator)
    mask = torch.ones_like(ids)
    ids[1, 6:], mask[1, 6:] = 0, 0
    classes = torch.tensor([0, 2])
    match KINDS[kind].inputs:
        case "text":
            return {"input_ids": ids, "attention_mask": mask, "labels": ids.masked_fill(mask == 0, -100)}
        case "text with a label":
            return {"input_ids": ids, "attention_mask": mask, "labels": classes}
        case "two texts":
            return {"input_ids": ids, "attention_mask": mask, "labels": ids[:, :5].contiguous()}
    return {"pixel_values": torch.randn(2, 3, 8, 8, generator=generator), "labels": classes}


def loss(kind: str) -> Loss | None:
    """None, which is that of the next token, or the model's own."""
    return None if KINDS[kind].inputs == "text" else lambda model, **batch: model(**batch).loss


@torch.no_grad()
def logits(model: nn.Module, kind: str) -> Tensor:
    return model(**batch(kind)).logits


# Of what `inject` refuses, why.
STACKS = "Of transformers it takes the stacks of llama, "
REFUSED: dict[tuple[str, str], str] = {
    **{(method, kind): STACKS for method in ("prompt", "prefix") for kind in ("BERT", "T5", "ViT")},
    ("parallel", "Qwen3-MoE"): "a bottleneck needs a linear layer, or a module with some; got Qwen3MoeSparseMoeBlock",
}
