"""Language models: one decoder, and the weights to put into it."""

from peft_lessons.models.decoder import Decoder, DecoderConfig, KeyValueCache, generate
from peft_lessons.models.smollm2 import load_smollm2
from peft_lessons.models.tokenizer import Tokenizer

__all__ = ["Decoder", "DecoderConfig", "KeyValueCache", "Tokenizer", "generate", "load_smollm2"]
