"""Language models: one decoder, and the weights to put into it."""

from peft_lessons.models.decoder import Decoder, DecoderConfig, KeyValueCache, generate, generate_steps
from peft_lessons.models.hub import load_from_hub, save_for_transformers
from peft_lessons.models.llama_gguf import load_gguf, save_gguf
from peft_lessons.models.smollm2 import load_smollm2
from peft_lessons.models.smollm2_4bit import load_smollm2_in_4_bits
from peft_lessons.models.tiny_gpt import load_tiny_gpt
from peft_lessons.models.tokenizer import Tokenizer

__all__ = [
    "Decoder",
    "DecoderConfig",
    "KeyValueCache",
    "Tokenizer",
    "generate",
    "generate_steps",
    "load_from_hub",
    "load_gguf",
    "load_smollm2",
    "load_smollm2_in_4_bits",
    "load_tiny_gpt",
    "save_for_transformers",
    "save_gguf",
]
