"""Models and methods that the tests of `peft_lessons.accounting` share."""

from dataclasses import fields

import torch
import torch.nn.functional as F
import transformers

from peft_lessons import inject
from peft_lessons.accounting import FullFineTuning, HeadOnly, LastLayers, decoder_shape
from peft_lessons.methods.adalora import AdaLoRAConfig
from peft_lessons.methods.bitfit import BitFitConfig
from peft_lessons.methods.bottleneck import ParallelAdapterConfig, SerialAdapterConfig
from peft_lessons.methods.dora import DoRAConfig
from peft_lessons.methods.ia3 import IA3Config
from peft_lessons.methods.layer_norm import LayerNormTuningConfig
from peft_lessons.methods.loftq import LoftQConfig
from peft_lessons.methods.loha import LoHaConfig
from peft_lessons.methods.lora import LoRAConfig
from peft_lessons.methods.lora_bias import BiasedLoRAConfig
from peft_lessons.methods.lora_fa import LoRAFAConfig
from peft_lessons.methods.oft import OFTConfig
from peft_lessons.methods.partial import full_fine_tuning, head_only, last_layers
from peft_lessons.methods.pissa import OLoRAConfig, PiSSAConfig
from peft_lessons.methods.prefix import PrefixTuningConfig
from peft_lessons.methods.prompt import PromptTuningConfig
from peft_lessons.methods.vera import VeRAConfig
from peft_lessons.models.decoder import Decoder, DecoderConfig

QV = ("q_proj", "v_proj")
MLP = ("gate_proj", "up_proj", "down_proj")

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
    "LoRA": LoRAConfig(rank=4),
    "LoRA q, v": LoRAConfig(rank=4, targets=QV),
    "LoRA down": LoRAConfig(rank=4, targets=("down_proj",)),
    "LoRA o, up": LoRAConfig(rank=4, targets=("o_proj", "up_proj")),
    "LoRA last layer": LoRAConfig(rank=4, targets=("layers.2.mlp.gate_proj",)),
    "LoRA with head": LoRAConfig(rank=4, targets=("v_proj", "lm_head")),
    "LoRA of other ranks": LoRAConfig(rank=4, rank_pattern={"v_proj": 2, "layers.0.mlp.up_proj": 7}),
    "LoRA with a bias": BiasedLoRAConfig(rank=4),
    "LoRA-FA": LoRAFAConfig(rank=4),
    "OLoRA": OLoRAConfig(rank=4),
    "PiSSA": PiSSAConfig(rank=4),
    "LoftQ": LoftQConfig(rank=4, iterations=1),
    "DoRA": DoRAConfig(rank=4),
    "DoRA q, v": DoRAConfig(rank=4, targets=QV),
    "AdaLoRA": AdaLoRAConfig(rank=4, target_rank=2),
    "VeRA": VeRAConfig(rank=16),
    "LoHa": LoHaConfig(rank=4),
    "OFT": OFTConfig(block_size=8),
    "OFT in blocks": OFTConfig(blocks=4),
    "OFT, one block": OFTConfig(block_size=8, shared=True),
    "IA³": IA3Config(),
    "IA³ down": IA3Config(targets=("down_proj",)),
    "BitFit": BitFitConfig(),
    "LayerNorm tuning": LayerNormTuningConfig(),
    "serial adapter": SerialAdapterConfig(bottleneck=5),
    "serial adapter on MLP": SerialAdapterConfig(bottleneck=5, targets=("mlp",)),
    "parallel adapter": ParallelAdapterConfig(bottleneck=5),
    "parallel adapter on down": ParallelAdapterConfig(bottleneck=5, targets=("down_proj",)),
    "prompt tuning": PromptTuningConfig(tokens=7),
    "prefix tuning": PrefixTuningConfig(tokens=7),
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
