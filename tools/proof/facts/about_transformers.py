"""What the course says of transformers."""

from typing import Any

import torch
from torch.nn import functional as F

from tools.proof.facts.fact import fact

LESSON_07 = "notebooks/07_qlora.md"
TINY: dict[str, Any] = {
    "vocab_size": 11,
    "hidden_size": 8,
    "intermediate_size": 12,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
}


@fact("transformers", where=LESSON_07, says='bnb_4bit_quant_type="nf4",  # default: "fp4"', expected="fp4")
def four_bit_type(transformers: Any) -> str:
    """BitsAndBytesConfig(load_in_4bit=True) alone asks for FP4."""
    return transformers.BitsAndBytesConfig(load_in_4bit=True).bnb_4bit_quant_type


@fact("transformers", where=LESSON_07, says="bnb_4bit_use_double_quant=True,  # default: False", expected=False)
def four_bit_double_quantization(transformers: Any) -> bool:
    """BitsAndBytesConfig(load_in_4bit=True) alone does not quantize the scales in turn."""
    return transformers.BitsAndBytesConfig(load_in_4bit=True).bnb_4bit_use_double_quant


@fact(
    "transformers",
    where=LESSON_07,
    says="bnb_4bit_compute_dtype=torch.bfloat16,  # default: torch.float32",
    expected="torch.float32",
)
def four_bit_compute_type(transformers: Any) -> str:
    """BitsAndBytesConfig(load_in_4bit=True) alone computes in fp32."""
    return str(transformers.BitsAndBytesConfig(load_in_4bit=True).bnb_4bit_compute_dtype)


@fact(
    "transformers",
    where="peft_lessons/lessons/l07_qlora/questions.toml",
    says='`bnb_4bit_quant_type=\\"nf4\\"` and `bnb_4bit_use_double_quant=True`',
    expected=("nf4", True),
)
def four_bit_names(transformers: Any) -> tuple[str, bool]:
    """NF4 and double quantization are asked for by bnb_4bit_quant_type and bnb_4bit_use_double_quant."""
    asked = {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True}
    config = transformers.BitsAndBytesConfig(**asked).to_dict()
    return config["bnb_4bit_quant_type"], config["bnb_4bit_use_double_quant"]


@fact(
    "transformers",
    where="peft_lessons/training.py",
    says="As in Hugging Face's libraries labels are not shifted, and a label of -100 is not scored",
    expected=True,
)
def unshifted_labels(transformers: Any) -> bool:
    """A language model of transformers shifts the labels itself, and leaves out those of −100."""
    torch.manual_seed(0)
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**TINY)).eval()
    ids = torch.tensor([[1, 2, 3, 4]])
    with torch.no_grad():
        output = model(ids, labels=torch.tensor([[-100, -100, 3, 4]]))
    return torch.allclose(output.loss, F.cross_entropy(output.logits[0, 1:3], torch.tensor([3, 4])))


@fact(
    "transformers",
    where="peft_lessons/accounting/architectures.py",
    says='"llama": Llama(defaults=UNTIED',
    expected={"llama": False, "mistral": False, "qwen2": False, "gemma2": True, "gpt2": True, "roberta": True},
)
def tied_by_default(transformers: Any) -> dict[str, bool]:
    """Of the architectures that are counted, Gemma 2, GPT-2 and RoBERTa tie head and embedding by default."""
    names = ("llama", "mistral", "qwen2", "gemma2", "gpt2", "roberta")
    return {name: transformers.AutoConfig.for_model(name).tie_word_embeddings for name in names}


@fact(
    "transformers",
    where="peft_lessons/accounting/config_file.py",
    says="# num_key_value_heads is num_attention_heads unless the file says otherwise",
    expected=6,
)
def llama_key_value_heads(transformers: Any) -> int:
    """Llama has as many key/value heads as heads unless its config says otherwise."""
    return transformers.LlamaConfig(hidden_size=48, num_attention_heads=6).num_key_value_heads


@fact(
    "transformers",
    where="peft_lessons/accounting/config_file.py",
    says='attention_bias=settings.switch("attention_bias")',
    expected={"llama": (False, False), "gemma2": (False, None)},
)
def biases_by_default(transformers: Any) -> dict[str, tuple]:
    """Llama has no biases in attention and MLP by default, and Gemma 2 none in attention."""
    configs = {name: transformers.AutoConfig.for_model(name) for name in ("llama", "gemma2")}
    return {name: (each.attention_bias, getattr(each, "mlp_bias", None)) for name, each in configs.items()}


@fact(
    "transformers",
    where="peft_lessons/accounting/config_file.py",
    says='4 * hidden_size if model_type == "gpt2"',
    expected=((8, 32), (8, 24)),
)
def gpt2_layers(transformers: Any) -> tuple[tuple[int, ...], ...]:
    """GPT-2's MLP is four times as wide inside unless told otherwise, and queries, keys and values are one c_attn."""
    sizes = {"n_embd": 8, "n_layer": 1, "n_head": 2, "vocab_size": 11, "n_positions": 16}
    config = transformers.GPT2Config(**sizes, bos_token_id=0, eos_token_id=0)
    block = transformers.GPT2Model(config).h[0]
    return tuple(block.mlp.c_fc.weight.shape), tuple(block.attn.c_attn.weight.shape)


@fact(
    "transformers",
    where="notebooks/12_ship_it.md",
    says='"max_position_embeddings", "rms_norm_eps", "rope_theta")',
    expected=500.0,
)
def rope_theta(transformers: Any) -> float:
    """LlamaConfig takes rope_theta as an argument of its own, and its rotary angles follow it."""
    model = transformers.LlamaModel(transformers.LlamaConfig(**TINY, rope_theta=500.0))
    return round(model.rotary_emb.inv_freq[1].item() ** -2, 3)  # θ^(−2/4) with heads of width 4


@fact(
    "transformers",
    where="peft_lessons/models/decoder.py",
    says="Modules carry Hugging Face's names",
    expected=True,
)
def names_of_parameters(transformers: Any) -> bool:
    """A Llama of transformers and the course's decoder give all tensors the same names and shapes."""
    from peft_lessons.models import Decoder, DecoderConfig

    sizes = {**TINY, "num_key_value_heads": 1, "max_position_embeddings": 16}
    ours = Decoder(DecoderConfig(**sizes)).state_dict()
    theirs = transformers.LlamaForCausalLM(transformers.LlamaConfig(**sizes)).state_dict()
    return {name: tensor.shape for name, tensor in ours.items()} == {name: t.shape for name, t in theirs.items()}


@fact(
    "transformers",
    where="tests/test_decoder.py",
    says="torch's RMSNorm multiplies by the weight before it rounds to bf16, transformers' after",
    expected={"torch": "before", "transformers": "after"},
)
def rounding_of_norms(transformers: Any) -> dict[str, str]:
    """In bf16 torch's RMSNorm multiplies by the weight before it rounds, that of transformers after."""
    from transformers.models.llama.modeling_llama import LlamaRMSNorm

    generator = torch.Generator().manual_seed(0)
    x, weight = (torch.randn(shape, generator=generator).bfloat16() for shape in ((64, 32), (32,)))
    norms = {"torch": torch.nn.RMSNorm(32, eps=1e-6), "transformers": LlamaRMSNorm(32, eps=1e-6)}
    scaled = x.float() * (x.float().square().mean(-1, keepdim=True) + 1e-6).rsqrt()
    possible = {"before": (scaled * weight.float()).bfloat16(), "after": scaled.bfloat16() * weight}

    def when(norm: torch.nn.Module) -> str:
        norm.weight = torch.nn.Parameter(weight)
        y = norm(x)
        return min(possible, key=lambda name: (y != possible[name]).sum().item())

    with torch.no_grad():
        return {name: when(norm) for name, norm in norms.items()}
