"""One file per method: the paper, its equation, one config and one layer."""

from peft_lessons.methods.lora import LoRAConfig, LoRALinear

__all__ = ["LoRAConfig", "LoRALinear"]
