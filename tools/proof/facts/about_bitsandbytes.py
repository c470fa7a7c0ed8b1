"""What the course says of bitsandbytes."""

from typing import Any

import torch

from peft_lessons.quantization import DYNAMIC8, FP4, NF4
from tools.proof.facts.fact import fact

QUANTIZATION = "peft_lessons/quantization/tensor.py"


def weight(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def differing(theirs: torch.Tensor, ours: tuple[float, ...]) -> int:
    return sum(their != our for their, our in zip(theirs.tolist(), ours, strict=True))


@fact(
    "bitsandbytes",
    where=QUANTIZATION,
    says="The codes, scales and values of `NF4` and `FP4` are those of bitsandbytes, bit for bit",
    expected={"nf4": 0, "fp4": 0},
)
def four_bit_levels(bnb: Any) -> dict[str, int]:
    """None of the 16 levels of NF4 and of FP4 differs from the course's."""
    ours = {"nf4": NF4.values, "fp4": FP4.values}
    return {name: differing(bnb.functional.get_4bit_type(name, device="cpu"), ours[name]) for name in ours}


@fact(
    "bitsandbytes",
    where=QUANTIZATION,
    says="That second level is bitsandbytes' 8-bit dynamic map",
    expected=0,
)
def dynamic_levels(bnb: Any) -> int:
    """None of the 256 levels of the dynamic map differs from the course's."""
    return differing(bnb.functional.create_dynamic_map(), DYNAMIC8.values)


@fact(
    "bitsandbytes",
    where=QUANTIZATION,
    says="their mean is subtracted and the rest is stored in 8 bits with one second scale for 256 of them",
    expected={"block": 64, "second block": 256, "scales": "torch.uint8", "offset is the mean": True},
)
def double_quantization(bnb: Any) -> dict[str, Any]:
    """Blocks are of 64 weights; double quantization stores scales less their mean in 8 bits, in blocks of 256."""
    values = weight(64, 64)
    _, state = bnb.functional.quantize_4bit(values, quant_type="nf4", compress_statistics=True)
    _, plain = bnb.functional.quantize_4bit(values, quant_type="nf4")
    return {
        "block": state.blocksize,
        "second block": state.state2.blocksize,
        "scales": str(state.absmax.dtype),
        "offset is the mean": torch.equal(state.offset, plain.absmax.mean()),
    }


@fact(
    "bitsandbytes",
    where="peft_lessons/lessons/l07_qlora/questions.toml",
    says="The scales, which stay in 32 bits",
    expected="torch.float32",
)
def scales_of_bf16(bnb: Any) -> str:
    """Without double quantization scales are in fp32, those of a weight in bf16 too."""
    return str(bnb.functional.quantize_4bit(weight(8, 64).bfloat16(), quant_type="fp4")[1].absmax.dtype)


@fact(
    "bitsandbytes",
    where=QUANTIZATION,
    says="# ends a half-filled byte, as in bitsandbytes",
    expected=["0x0f", "0xf7"],
)
def packed_codes(bnb: Any) -> list[str]:
    """The first code lies in a byte's high bits, and the code of zero ends a byte that is half filled."""
    packed, _ = bnb.functional.quantize_4bit(torch.tensor([-1.0, 1.0, 1.0]), quant_type="nf4")
    return [f"{byte:#04x}" for byte in packed.flatten().tolist()]


@fact(
    "bitsandbytes",
    where="peft_lessons/accounting/storage.py",
    says="8-bit integers and one fp32 scale for each row, as LLM.int8() stores weights",
    expected=("torch.int8", "torch.float32", 3),
)
def int8_rows(bnb: Any) -> tuple[str, str, int]:
    """LLM.int8() stores 8-bit integers and one fp32 scale for each row."""
    codes, scales, _ = bnb.functional.int8_vectorwise_quant(weight(3, 64).half())
    return str(codes.dtype), str(scales.dtype), scales.numel()


@fact(
    "bitsandbytes",
    where="notebooks/12_ship_it.md",
    says="QLoRA needs less still, if its codes are sharded too. This script does not do that; bitsandbytes does",
    expected=("torch.bfloat16", 1024),
)
def codes_for_sharding(bnb: Any) -> tuple[str, int]:
    """A Linear4bit can hold its codes as a floating-point tensor, which FSDP shards like any other weight."""
    layer = bnb.nn.Linear4bit(64, 64, bias=False, quant_storage=torch.bfloat16).to("cpu")
    return str(layer.weight.dtype), layer.weight.numel()
