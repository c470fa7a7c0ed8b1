"""Models: a decoder and a diffusion transformer, each on one page, and the weights to put into them."""

from peft_lessons.models.decoder import Decoder, DecoderConfig, KeyValueCache, generate, generate_steps
from peft_lessons.models.diffusion import (
    DiffusionConfig,
    DiffusionTransformer,
    draw,
    draw_steps,
    euler_step,
    flow_batches,
    flow_evaluation,
    flow_matching_loss,
)
from peft_lessons.models.hub import load_from_hub, save_for_transformers
from peft_lessons.models.letters import LETTERS, letter_ids, load_letters
from peft_lessons.models.llama_gguf import load_gguf, save_gguf
from peft_lessons.models.smollm2 import load_smollm2
from peft_lessons.models.smollm2_4bit import load_smollm2_in_4_bits
from peft_lessons.models.tiny_gpt import load_tiny_gpt
from peft_lessons.models.tokenizer import Tokenizer

__all__ = [
    "LETTERS",
    "Decoder",
    "DecoderConfig",
    "DiffusionConfig",
    "DiffusionTransformer",
    "KeyValueCache",
    "Tokenizer",
    "draw",
    "draw_steps",
    "euler_step",
    "flow_batches",
    "flow_evaluation",
    "flow_matching_loss",
    "generate",
    "generate_steps",
    "letter_ids",
    "load_from_hub",
    "load_gguf",
    "load_letters",
    "load_smollm2",
    "load_smollm2_in_4_bits",
    "load_tiny_gpt",
    "save_for_transformers",
    "save_gguf",
]
