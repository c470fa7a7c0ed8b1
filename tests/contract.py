"""The matrix that every method goes through: method × base × the properties of `test_contract.py`."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from peft_lessons import NF4, AdapterConfig, AdapterLayer, LoRAConfig, QuantizedLinear

IN, OUT = 48, 33  # odd on purpose: 33·48 is no multiple of the block size

METHODS: dict[str, AdapterConfig] = {
    "lora": LoRAConfig(rank=4, alpha=12, targets=("first", "second")),
    "lora-rank-1": LoRAConfig(rank=1, alpha=3, targets=("first", "second")),
    "rslora": LoRAConfig(rank=4, alpha=12, rank_stabilized=True, targets=("first", "second")),
    "lora-dropout": LoRAConfig(rank=4, alpha=12, dropout=0.5, targets=("first", "second")),
}

BASES: dict[str, Callable[[nn.Linear], nn.Module]] = {
    "dense": lambda linear: linear,
    "nf4": lambda linear: QuantizedLinear.from_linear(linear, codebook=NF4, block_size=64),
    "nf4-double": lambda linear: QuantizedLinear.from_linear(linear, codebook=NF4, block_size=64, double=True),
}


class Network(nn.Module):
    """Two linear layers with a nonlinearity between them, the first with a bias."""

    def __init__(self, base: Callable[[nn.Linear], nn.Module]) -> None:
        super().__init__()
        self.first = base(nn.Linear(IN, OUT))
        self.second = base(nn.Linear(OUT, IN, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        return self.second(torch.tanh(self.first(x)))


def network(base: str, dtype: torch.dtype = torch.float32) -> Network:
    torch.manual_seed(0)
    return Network(BASES[base]).to(dtype).eval()


def stir(model: nn.Module) -> nn.Module:
    """Move all that trains away from its start, so that B ≠ 0."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, AdapterLayer):
                for parameter in module.parameters():
                    if parameter.requires_grad:
                        parameter += 0.3 * torch.randn(parameter.shape, generator=generator).to(parameter.dtype)
    return model
