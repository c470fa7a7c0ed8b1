"""Models and methods that the tests of `peft_lessons.accounting` share."""

from dataclasses import fields

import torch
import torch.nn.functional as F
import transformers
from method_cases import CASES, QV

from peft_lessons import inject
from peft_lessons.accounting import FullFineTuning, HeadOnly, LastLayers, decoder_shape
from peft_lessons.methods.bottleneck import ParallelAdapterConfig, SerialAdapterConfig
from peft_lessons.methods.dora import DoRAConfig
from peft_lessons.methods.ia3 import IA3Config
from peft_lessons.methods.lora import LoRAConfig
from peft_lessons.methods.oft import OFTConfig
from peft_lessons.methods.partial import full_fine_tuning, head_only, last_layers
from peft_lessons.models.decoder import Decoder, DecoderConfig

# No two widths alike, so that none can stand in for another; grouped heads; an untied head.
TINY = DecoderConfig(
    vocab_size=97,
    hidden_size=48,
    intermediate_size=112,
    num_hidden_layers=3,
    num_attention_heads=6,
    num_key_value_heads=2,
    tie_word_embeddings=False,
)
SHAPE = decoder_shape(TINY)

ADAPTERS = {
    **{name: case.config for name, case in CASES.items() if not getattr(case.config, "dropout", 0)},
    "lora q, v": LoRAConfig(rank=4, targets=QV),
    "lora down": LoRAConfig(rank=4, targets=("down_proj",)),
    "lora o, up": LoRAConfig(rank=4, targets=("o_proj", "up_proj")),
    "lora last layer": LoRAConfig(rank=4, targets=("layers.2.mlp.gate_proj",)),
    "lora with head": LoRAConfig(rank=4, targets=("v_proj", "lm_head")),
    "lora of other ranks": LoRAConfig(rank=4, rank_pattern={"v_proj": 2, "layers.0.mlp.up_proj": 7}),
    "dora q, v": DoRAConfig(rank=4, targets=QV),
    "oft in blocks": OFTConfig(blocks=4),
    "oft, one block": OFTConfig(block_size=8, shared=True),
    "ia3 by default": IA3Config(),
    "ia3 down": IA3Config(targets=("down_proj",)),
    "serial on mlp": SerialAdapterConfig(bottleneck=5, targets=("mlp",)),
    "parallel on down": ParallelAdapterConfig(bottleneck=5, targets=("down_proj",)),
}
METHODS = {"full": FullFineTuning(), "head": HeadOnly(), "last layer": LastLayers(1), **ADAPTERS}


def prepared(model, method):
    """`model`, with `method` in it: what `accounting` counts without a model."""
    match method:
        case FullFineTuning():
            return full_fine_tuning(model)
        case HeadOnly():
            return head_only(model)
        case LastLayers(count):
            return last_layers(model, count)
    return inject(model, method)


def tiny(method, dtype=torch.float32, config=TINY):
    torch.manual_seed(0)
    return prepared(Decoder(config).to(dtype), method)


def plain_loss(model, ids):
    """Cross-entropy over all logits at once: what `accounting` counts, and `training.language_model_loss` undercuts."""
    logits = model(ids)[:, :-1].flatten(0, 1)
    return F.cross_entropy(logits.float(), ids[:, 1:].flatten())


def meta_decoder(shape):
    """This course's decoder in a given shape, without a byte of weights."""
    names = {field.name for field in fields(DecoderConfig)} & {field.name for field in fields(shape)}
    with torch.device("meta"):
        return Decoder(DecoderConfig(**{name: getattr(shape, name) for name in names}))


def transformers_model(shape):
    """transformers' own model in this shape, on the meta device; its config is written by hand."""
    common = {
        "vocab_size": shape.vocab_size,
        "hidden_size": shape.hidden_size,
        "intermediate_size": shape.intermediate_size,
        "num_hidden_layers": shape.num_hidden_layers,
        "num_attention_heads": shape.num_attention_heads,
        "max_position_embeddings": shape.max_position_embeddings,
        "tie_word_embeddings": shape.tie_word_embeddings,
    }
    grouped = common | {"num_key_value_heads": shape.num_key_value_heads}
    with torch.device("meta"):
        match shape.model_type:
            case "llama":
                biases = {"attention_bias": shape.attention_bias, "mlp_bias": shape.mlp_bias}
                return transformers.LlamaForCausalLM(
                    transformers.LlamaConfig(**grouped, **biases, head_dim=shape.head_dim)
                )
            case "mistral":
                return transformers.MistralForCausalLM(transformers.MistralConfig(**grouped, head_dim=shape.head_dim))
            case "qwen2":
                return transformers.Qwen2ForCausalLM(transformers.Qwen2Config(**grouped))
            case "gemma2":
                return transformers.Gemma2ForCausalLM(transformers.Gemma2Config(**grouped, head_dim=shape.head_dim))
            case "gpt2":
                names = {
                    "n_embd": shape.hidden_size,
                    "n_inner": shape.intermediate_size,
                    "n_layer": shape.num_hidden_layers,
                    "n_head": shape.num_attention_heads,
                    "n_positions": shape.max_position_embeddings,
                }
                return transformers.GPT2LMHeadModel(
                    transformers.GPT2Config(
                        vocab_size=shape.vocab_size, tie_word_embeddings=shape.tie_word_embeddings, **names
                    )
                )
            case "roberta":
                config = transformers.RobertaConfig(**common, type_vocab_size=shape.type_vocab_size)
                return transformers.RobertaModel(config, add_pooling_layer=False)
