"""One place in a model that holds weights, or that a method can adapt, and what it reads."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Literal, TypeAlias

Shapes: TypeAlias = Mapping[str, tuple[int, ...]]
Kind = Literal["linear", "slice", "norm", "embedding", "block", "router", "experts"]
Role = Literal[
    "", "query", "key", "value", "query_key_value", "key_value", "query_latent", "key_value_latent",
    "query_norm", "key_norm", "query_latent_norm", "key_value_latent_norm",
    "output", "gate", "up", "gate_up", "down", "router", "experts", "head",
]  # fmt: skip

# What a module of each role reads: "x" and "h" are what attention and feed-forward part get, "mixed" is the mixture of
# values, "gated" what the last product of the feed-forward part gets, "sent" a copy of a token for each of its experts;
# others are another module's output, by its role.
READS: dict[Role, str] = {
    "query": "x",
    "key": "x",
    "value": "x",
    "query_key_value": "x",
    "query_latent": "x",
    "key_value_latent": "x",
    "key_value": "key_value_latent_norm",
    "query_norm": "query",
    "key_norm": "key",
    "query_latent_norm": "query_latent",
    "key_value_latent_norm": "key_value_latent",
    "output": "mixed",
    "gate": "h",
    "up": "h",
    "gate_up": "h",
    "router": "h",
    "experts": "sent",
    "down": "gated",
}


@dataclass(frozen=True)
class Module:
    """One place in a model. `in_features` and `out_features` of a norm or a block are the width that it keeps.

    A "slice" is a third of GPT-2's fused c_attn, and a "block" an attention or feed-forward part, or a whole layer:
    both can be adapted, but hold no weights beside those of the modules in them. A "router" is a matrix that is no
    linear layer, and "experts" are the gated feed-forward networks of a layer in two stacks of matrices: neither is
    a target, as it is none of `inject`; LoRA's `target_parameters` name what they hold.

    Examples:
        >>> from peft_lessons.accounting import Module
        >>> Module("model.layers.0.mlp.up_proj", "linear", 4096, 14336).parameters
        58720256
    """

    name: str
    kind: Kind
    in_features: int
    out_features: int
    role: Role = ""
    bias: bool = False
    tied: bool = False  # the weight is another module's and counts there
    stored_transposed: bool = False  # GPT-2's Conv1D and Llama 4's experts keep (in, out)
    count: int = 1  # experts in a stack
    times: int = 1  # how often a token passes: the heads of a norm of each head, the experts that a token is sent to
    input: str = ""  # what it reads, where that is not what others of its role read

    @property
    def tensors(self) -> dict[str, tuple[int, ...]]:
        """Its own parameters: name → shape; linear weights are (out, in), as everywhere in this course."""
        if self.tied:
            return {}
        d, f = self.in_features, self.out_features
        match self.kind:
            case "experts":
                gate_up, down = (self.count, 2 * f, d), (self.count, d, f)
                return {f"{self.name}.gate_up_proj": gate_up, f"{self.name}.down_proj": down}
            case "linear" | "router":
                weight: tuple[int, ...] = (f, d)
            case "embedding":
                weight = (d, f)
            case "norm":
                weight = (f,)
            case _:
                return {}
        return {f"{self.name}.weight": weight} | ({f"{self.name}.bias": (f,)} if self.bias else {})

    @property
    def matrices(self) -> list[tuple[int, int]]:
        """(out, in) of each matrix that a token is multiplied by; of a stack, those of one expert."""
        d, f = self.in_features, self.out_features
        if self.kind == "experts":
            return [(2 * f, d), (d, f)]
        return [(f, d)] if self.kind in ("linear", "router") else []

    @property
    def parameters(self) -> int:
        return size(self.tensors)

    @property
    def active_parameters(self) -> int:
        """Those that one token passes: of a stack, only the experts that it is sent to."""
        return self.parameters // self.count * self.times if self.kind == "experts" else self.parameters

    @property
    def reads(self) -> str:
        return self.input or READS.get(self.role, "")

    def matches(self, target: str) -> bool:
        """Return whether its name ends with `target`, cut at dots: the rule of `inject`."""
        return f".{self.name}".endswith(f".{target}")

    @property
    def layer(self) -> int | None:
        """The number of the transformer layer that it is in, if it is in one."""
        return next((int(part) for part in self.name.split(".") if part.isdigit()), None)


def size(tensors: Shapes) -> int:
    """How many numbers tensors of these shapes hold."""
    return sum(prod(shape) for shape in tensors.values())
