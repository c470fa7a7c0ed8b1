"""The matrix that every method goes through: method × base × the properties of `test_contract.py`."""

from collections.abc import Callable
from dataclasses import replace

import torch
from method_cases import CASES as CASES_OF_METHODS
from method_cases import NEEDS_DENSE, READS_IDS
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from peft_lessons import NF4, AdapterConfig, AdapterLayer, QuantizedLinear
from peft_lessons.models import Decoder, DecoderConfig

IN, OUT = 48, 33  # odd on purpose: 33·48 is no multiple of the block size
BOTH = ("first", "second")

METHODS: dict[str, AdapterConfig] = {
    name: replace(case.config, **({} if name in READS_IDS else {"targets": BOTH}) | case.small)
    for name, case in CASES_OF_METHODS.items()
}

BASES: dict[str, Callable[[nn.Linear], nn.Module]] = {
    "dense": lambda linear: linear,
    "nf4": lambda linear: QuantizedLinear.from_linear(linear, codebook=NF4, block_size=64),
    "nf4-double": lambda linear: QuantizedLinear.from_linear(linear, codebook=NF4, block_size=64, double=True),
    "conv1d": lambda linear: conv1d(linear),
}
CASES = [
    (method, base) for method in METHODS for base in BASES if not base.startswith("nf4") or method not in NEEDS_DENSE
]

DECODER = DecoderConfig(
    vocab_size=31,
    hidden_size=24,
    intermediate_size=36,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=32,
    initializer_range=0.3,
)


def conv1d(linear: nn.Linear) -> nn.Module:
    """The same layer as GPT-2 has it: W transposed, and always a bias."""
    conv = Conv1D(linear.out_features, linear.in_features)
    with torch.no_grad():
        conv.weight.copy_(linear.weight.T)
        conv.bias.copy_(torch.zeros(linear.out_features) if linear.bias is None else linear.bias)
    return conv


class Network(nn.Module):
    """Two linear layers with a norm and a nonlinearity between them, the first with a bias."""

    def __init__(self, base: Callable[[nn.Linear], nn.Module]) -> None:
        super().__init__()
        self.first = base(nn.Linear(IN, OUT))
        self.norm = nn.LayerNorm(OUT)
        self.second = base(nn.Linear(OUT, IN, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        return self.second(torch.tanh(self.norm(self.first(x))))


def network(method: str, base: str, dtype: torch.dtype = torch.float32) -> nn.Module:
    """What `method` adapts, the same at each call: a network, or a small decoder for methods that need one."""
    torch.manual_seed(0)
    if method not in READS_IDS:
        return Network(BASES[base]).to(dtype).eval()
    model = Decoder(DECODER)
    for block in model.model.layers:
        for part in (block.self_attn, block.mlp):
            for name, linear in list(part.named_children()):
                setattr(part, name, BASES[base](linear))
    return model.to(dtype).eval()


def sample(method: str, dtype: torch.dtype = torch.float32) -> Tensor:
    """What that network reads: (5, 3, IN) numbers, or (5, 3) ids."""
    generator = torch.Generator().manual_seed(2)
    if method in READS_IDS:
        return torch.randint(DECODER.vocab_size, (5, 3), generator=generator)
    return torch.randn(5, 3, IN, generator=generator).to(dtype)


def perturb(model: nn.Module) -> nn.Module:
    """Move all that trains away from its start, so that B ≠ 0."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, AdapterLayer):
                for parameter in module.parameters():
                    if parameter.requires_grad:
                        parameter += 0.3 * torch.randn(parameter.shape, generator=generator).to(parameter.dtype)
    return model
