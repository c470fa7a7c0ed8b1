"""The one list of facts about other libraries that the course states or builds on: `FACTS`."""

from tools.proof.facts import about_bitsandbytes, about_jupyter, about_peft, about_torch, about_transformers
from tools.proof.facts.fact import FACTS, READ_IN, Fact

__all__ = [
    "FACTS",
    "READ_IN",
    "Fact",
    "about_bitsandbytes",
    "about_jupyter",
    "about_peft",
    "about_torch",
    "about_transformers",
]
