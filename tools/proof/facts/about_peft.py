"""What the course says of Hugging Face peft."""

import json
import tempfile
import warnings
from itertools import pairwise
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from safetensors.torch import load_file
from torch import nn

from peft_lessons.checkpoints.peft_names import LAYOUTS
from peft_lessons.checkpoints.schema import IGNORED, OFF, same
from tools.proof.facts.about_torch import flops
from tools.proof.facts.fact import fact

LAYOUTS_FILE = "peft_lessons/checkpoints/peft_names.py"
SCHEMA_FILE = "peft_lessons/checkpoints/schema.py"
LESSON_12 = "notebooks/12_ship_it.md"
IN, OUT = 6, 8


def base(dtype: torch.dtype = torch.float32) -> nn.Module:
    """A model of one linear layer, which is called 0: (…, 6) → (…, 8); the same at each call."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(IN, OUT, bias=False)).to(dtype)


def llama() -> nn.Module:
    """A language model of two layers of width 8, with one key/value head of width 4."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    sizes: dict[str, Any] = {
        "hidden_size": 8,
        "intermediate_size": 12,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
    }
    return LlamaForCausalLM(LlamaConfig(vocab_size=11, num_hidden_layers=2, **sizes))


def adapted(model: nn.Module, config: Any) -> Any:
    import peft

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return peft.get_peft_model(model, config)


def saved(model: Any, **options: Any) -> tuple[list[str], dict[str, Any], dict[str, torch.Tensor]]:
    """What peft writes for `model`: the names of the files, the settings, the tensors."""
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.save_pretrained(folder, **options)
        files = sorted(path.name for path in Path(folder).iterdir())
        settings = json.loads((Path(folder) / "adapter_config.json").read_text(encoding="utf-8"))
        return files, settings, load_file(Path(folder) / "adapter_model.safetensors")


def shapes(model: Any, **options: Any) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in saved(model, **options)[2].items()}


def fill(model: nn.Module, part: str = "lora_", seed: int = 1) -> None:
    """Give random numbers to the parameters whose names hold `part`."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if part in name:
                parameter.copy_(torch.randn(parameter.shape, generator=generator))


# ------------------------------------------------------------------------------------------------- defaults


@fact(
    "peft",
    where=LAYOUTS_FILE,
    says='"defaults": {"lora_dropout": 0.0, "use_rslora": False, "bias": "none"}',
    expected={"lora_dropout": 0.0, "use_rslora": False, "bias": "none"},
)
def defaults_of_older_files(peft: Any) -> dict[str, Any]:
    """A LoraConfig has no dropout and the plain scaling and trains no biases unless told otherwise."""
    config = peft.LoraConfig()
    return {name: getattr(config, name) for name in ("lora_dropout", "use_rslora", "bias")}


@fact(
    "peft",
    where=LAYOUTS_FILE,
    says='"constants": {"fan_in_fan_out": False}',
    expected={"fan_in_fan_out": False, "init_lora_weights": True},
)
def defaults_of_lora(peft: Any) -> dict[str, Any]:
    """A LoraConfig takes weights as (out, in) and starts B at zero unless told otherwise."""
    config = peft.LoraConfig()
    return {name: getattr(config, name) for name in ("fan_in_fan_out", "init_lora_weights")}


@fact(
    "peft",
    where=SCHEMA_FILE,
    says="Any other setting may change what the adapter computes and is refused, unless it is off",
    expected={},
)
def unknown_settings(peft: Any) -> dict[str, list[str]]:
    """Whatever a new config of peft sets is off, or this course knows it."""
    found = {}
    for layout in LAYOUTS:
        if layout.peft_type not in peft.PEFT_TYPE_TO_CONFIG_MAPPING:
            continue
        known = {*layout.read, *layout.ignored, *IGNORED, *layout.constants, *layout.marks, *layout.accepted}
        needs = {"total_step": 10} if layout.peft_type == "ADALORA" else {}
        settings = peft.PEFT_TYPE_TO_CONFIG_MAPPING[layout.peft_type](**needs).to_dict()
        unknown = [
            name
            for name, value in settings.items()
            if name not in known and not any(same(value, neutral) for neutral in OFF)
        ]
        if unknown:
            found[layout.peft_type] = unknown
    return found


@fact("peft", where="peft_lessons/methods/oft.py", says="peft does so, with 5 terms, unless told", expected=(True, 5))
def oft_series(peft: Any) -> tuple[bool, int]:
    """OFT takes 5 terms of the series unless told otherwise."""
    config = peft.OFTConfig()
    return config.use_cayley_neumann, config.num_cayley_neumann_terms


# ---------------------------------------------------------------------------------------------------- files


@fact(
    "peft",
    where=LESSON_12,
    says="An adapter is a folder with two files. `adapter_config.json` says what it is",
    expected=["README.md", "adapter_config.json", "adapter_model.safetensors"],
)
def names_of_files(peft: Any) -> list[str]:
    """save_pretrained writes adapter_config.json and adapter_model.safetensors, and a README that nothing reads."""
    return saved(adapted(base(), peft.LoraConfig(target_modules=["0"])))[0]


@fact(
    "peft",
    where=LESSON_12,
    says="`base_model.model.`, the path of the layer in the base",
    expected=["base_model.model.0.lora_A.weight", "base_model.model.0.lora_B.weight"],
)
def names_of_tensors(peft: Any) -> list[str]:
    """A LoRA's tensors are called base_model.model., the path of the layer, lora_A.weight or lora_B.weight."""
    return sorted(saved(adapted(base(), peft.LoraConfig(target_modules=["0"])))[2])


@fact(
    "peft",
    where=LESSON_12,
    says='"peft_type", "r", "lora_alpha", "target_modules", "base_model_name_or_path"',
    expected={"peft_type": "LORA", "r": 4, "lora_alpha": 12, "target_modules": ["0"], "base_model_name_or_path": None},
)
def names_of_settings(peft: Any) -> dict[str, Any]:
    """adapter_config.json says method, rank, α, targets and base by these names."""
    settings = saved(adapted(base(), peft.LoraConfig(r=4, lora_alpha=12, target_modules=["0"])))[1]
    names = ("peft_type", "r", "lora_alpha", "target_modules", "base_model_name_or_path")
    return {name: settings[name] for name in names}


@fact(
    "peft",
    where=LESSON_12,
    says="# else it asks the hub about the base",
    expected=(1, 0),
)
def save_asks_the_hub(peft: Any) -> tuple[int, int]:
    """save_pretrained asks the hub about a base that has a name, but not with save_embedding_layers=False."""
    from peft.utils import save_and_load

    model = adapted(llama(), peft.LoraConfig(target_modules=["q_proj"], task_type="CAUSAL_LM"))
    model.peft_config["default"].base_model_name_or_path = "somebody/a-model"
    counts = []
    for options in ({}, {"save_embedding_layers": False}):
        with mock.patch.object(save_and_load, "check_file_exists_on_hf_hub", return_value=None) as asked:
            saved(model, **options)
        counts.append(asked.call_count)
    return counts[0], counts[1]


@fact(
    "peft",
    where="peft_lessons/lessons/l09_the_method_zoo/questions.toml",
    says="This course and peft store them all the same",
    expected={
        "base_model.vera_A": (3, 6),
        "base_model.vera_B": (8, 3),
        "base_model.model.0.vera_lambda_b": (8,),
        "base_model.model.0.vera_lambda_d": (3,),
    },
)
def vera_file(peft: Any) -> dict[str, tuple[int, ...]]:
    """VeRA's random pair is stored with the vectors, once for all layers."""
    return shapes(adapted(base(), peft.VeraConfig(r=3, target_modules=["0"])))


@fact(
    "peft",
    where="peft_lessons/methods/pissa.py",
    says="On disk lie A and B alone, as in peft",
    expected=["base_model.model.0.lora_A.weight", "base_model.model.0.lora_B.weight"],
)
def pissa_file(peft: Any) -> list[str]:
    """Of PiSSA, A and B alone are stored; its quick start is called pissa_niter_4."""
    return sorted(saved(adapted(base(), peft.LoraConfig(init_lora_weights="pissa_niter_4", target_modules=["0"])))[2])


@fact(
    "peft",
    where=LAYOUTS_FILE,
    says="peft stores a column where outputs are scaled, a row where inputs are",
    expected=((8, 1), (1, 6)),
)
def ia3_file(peft: Any) -> tuple[tuple[int, ...], ...]:
    """IA³'s vector is stored as a column where outputs are scaled and as a row where inputs are."""

    def stored(**where: list[str]) -> tuple[int, ...]:
        (shape,) = shapes(adapted(base(), peft.IA3Config(target_modules=["0"], **where))).values()
        return shape

    return stored(feedforward_modules=[]), stored(feedforward_modules=["0"])


@fact(
    "peft",
    where=LAYOUTS_FILE,
    says='PROMPT_TENSORS = {"prompt": "prompt_embeddings", "prefix": "prompt_embeddings"}',
    expected=({"prompt_embeddings": (5, 8)}, {"prompt_embeddings": (5, 16)}),
)
def prompt_files(peft: Any) -> tuple[dict[str, tuple[int, ...]], ...]:
    """A prompt is stored as a row for each token, a prefix as one flat row of layers, keys and values, heads."""
    tokens: dict[str, Any] = {"num_virtual_tokens": 5, "task_type": "CAUSAL_LM"}
    configs = peft.PromptTuningConfig(**tokens), peft.PrefixTuningConfig(**tokens)
    return tuple(shapes(adapted(llama(), config)) for config in configs)


@fact(
    "peft",
    where=LAYOUTS_FILE,
    says="BitFit and the bottleneck adapters do not exist in peft",
    expected=[],
)
def missing_methods(peft: Any) -> list[str]:
    """peft has neither BitFit nor bottleneck adapters."""
    parts = ("BITFIT", "BOTTLENECK", "HOULSBY", "SERIAL", "PARALLEL")
    return [each.value for each in peft.PeftType if any(part in each.value for part in parts)]


@fact(
    "peft",
    where="peft_lessons/checkpoints/files.py",
    says="of a language model peft demands the methods of generation",
    expected="AttributeError",
)
def demands_of_language_models(peft: Any) -> str:
    """peft demands generation methods of whatever claims to be a causal language model."""
    try:
        adapted(base(), peft.LoraConfig(target_modules=["0"], task_type="CAUSAL_LM"))
    except Exception as error:
        return type(error).__name__
    return "accepted"


# ------------------------------------------------------------------------------------------------ behaviour


@fact(
    "peft",
    where=LESSON_12,
    says="Scaling is not in the tensors; whoever loads them multiplies by α/r",
    expected=(3.0, 6.0),
)
def scaling(peft: Any) -> tuple[float, float]:
    """The update is α/r · BA, and α/√r · BA with use_rslora."""

    def factor(**options: bool) -> float:
        model = adapted(base(), peft.LoraConfig(r=4, lora_alpha=12, target_modules=["0"], **options))
        fill(model)
        layer = model.base_model.model[0]
        product = layer.lora_B["default"].weight @ layer.lora_A["default"].weight
        update = model.merge_and_unload()[0].weight - base().get_parameter("0.weight")
        return round((update / product).median().item(), 4)

    return factor(), factor(use_rslora=True)


@fact(
    "peft",
    where=LAYOUTS_FILE,
    says='"init_lora_weights": (True, "gaussian", "orthogonal", "eva", "mica")',
    expected={"True": True, "gaussian": True, "orthogonal": True, "olora": False, "pissa": False},
)
def starts_that_keep_the_base(peft: Any) -> dict[str, bool]:
    """Of LoRA's starts, the default, gaussian and orthogonal leave W as it is; olora and pissa rewrite it."""

    def kept(start: bool | str) -> bool:
        model = adapted(base(), peft.LoraConfig(r=4, init_lora_weights=start, target_modules=["0"]))
        return torch.equal(model.base_model.model[0].base_layer.weight, base().get_parameter("0.weight"))

    return {str(start): kept(start) for start in (True, "gaussian", "orthogonal", "olora", "pissa")}


@fact(
    "peft",
    where="notebooks/10_forgetting.md",
    says="or PiSSA as peft writes it, not the published weights either",
    expected={"LoRA": True, "PiSSA": False},
)
def disabled_adapter(peft: Any) -> dict[str, bool]:
    """Within disable_adapter a LoRA gives the base bit for bit, and a PiSSA does not."""
    x = torch.ones(2, IN)

    def is_base(start: bool | str) -> bool:
        model = adapted(base(), peft.LoraConfig(r=4, init_lora_weights=start, target_modules=["0"]))
        fill(model)
        with model.disable_adapter():
            return torch.equal(model(x), base()(x))

    return {"LoRA": is_base(True), "PiSSA": is_base("pissa")}


@fact(
    "peft",
    where=LESSON_12,
    says='`add_weighted_adapter` does this with `combination_type="cat"`. With `"linear"` it adds the $A$ and the $B$',
    expected={"cat": "the sum of the updates", "linear": "the product of the sums"},
)
def weighted_adapters(peft: Any) -> dict[str, str]:
    """add_weighted_adapter gives the sum of the updates with "cat", and with "linear" adds the A and the B apart."""
    config = peft.LoraConfig(r=2, lora_alpha=2, target_modules=["0"])
    model = adapted(base(), config)
    model.add_adapter("other", config)
    fill(model)
    layer = model.base_model.model[0]
    A, B = ([part[name].weight for name in ("default", "other")] for part in (layer.lora_A, layer.lora_B))
    weights = [0.6, 0.4]
    possible = {
        "the sum of the updates": sum(w * b @ a for w, b, a in zip(weights, B, A, strict=True)),
        "the product of the sums": sum(w**0.5 * b for w, b in zip(weights, B, strict=True))
        @ sum(w**0.5 * a for w, a in zip(weights, A, strict=True)),
    }

    def combined(kind: str) -> str:
        model.add_weighted_adapter(["default", "other"], weights, kind, combination_type=kind)
        update = layer.get_delta_weight(kind)
        return next((name for name, one in possible.items() if torch.allclose(update, one, atol=1e-5)), "another")

    return {kind: combined(kind) for kind in ("cat", "linear")}


@fact(
    "peft",
    where="peft_lessons/methods/dora.py",
    says="peft drops the inputs of (m / ‖V‖ − 1) W₀x as well",
    expected=(1.0, False),
)
def dora_dropout(peft: Any) -> tuple[float, bool]:
    """With dropout DoRA drops the inputs of (m / ‖V‖ − 1) W₀x, too."""
    model = adapted(base(), peft.LoraConfig(use_dora=True, lora_dropout=0.5, target_modules=["0"]))
    with torch.no_grad():
        model.base_model.model[0].lora_magnitude_vector["default"].weight.mul_(2)  # B is zero still
    x = torch.randn(64, IN, generator=torch.Generator().manual_seed(2))
    twice = 2 * base()(x)
    whole = round((model.eval()(x) / twice).median().item(), 4)
    return whole, torch.allclose(model.train()(x), twice, atol=1e-4)


@fact(
    "peft",
    where="notebooks/09_the_method_zoo.md",
    says="multiplies by it beside $W$, and needs its whole gradient",
    expected=(2.0, 2.0),
)
def loha_operations(peft: Any) -> tuple[float, float]:
    """LoHa forms its whole ΔW: forward costs a second product with a full matrix, and 2 · 2r operations a weight."""

    def per_weight(tokens: int) -> float:
        model = adapted(base(), peft.LoHaConfig(r=4, target_modules=["0"]))
        with torch.no_grad():
            return flops(lambda: model(torch.ones(tokens, IN))) / (IN * OUT)

    few, many = per_weight(10), per_weight(20)
    each = (many - few) / 10  # 2 for W and 2 for ΔW
    return each / 2, (few - 10 * each) / (2 * 4)


@fact(
    "peft",
    where="peft_lessons/methods/lora_fa.py",
    says="peft's optimizer, which corrects B's gradient by (AAᵀ)⁻¹/s²",
    expected=(True, True),
)
def lora_fa_optimizer(peft: Any) -> tuple[bool, bool]:
    """LoRA-FA is an optimizer, which leaves A as it is and multiplies B's gradient by (AAᵀ)⁻¹/s²."""
    from peft.optimizers import create_lorafa_optimizer

    model = adapted(base(), peft.LoraConfig(r=2, lora_alpha=6, target_modules=["0"]))
    fill(model)
    layer = model.base_model.model[0]
    A, B = layer.lora_A["default"].weight, layer.lora_B["default"].weight
    before = A.detach().clone()
    optimizer = create_lorafa_optimizer(model, r=2, lora_alpha=6, lr=0.1)
    model(torch.randn(5, IN, generator=torch.Generator().manual_seed(2))).square().sum().backward()
    assert B.grad is not None
    corrected = B.grad @ torch.linalg.inv(before @ before.T) / 3**2
    optimizer.step()
    (first_mean,) = [state["exp_avg_B"] for state in optimizer.state.values() if "exp_avg_B" in state]
    near = (first_mean / 0.1 - corrected).norm() < 0.02 * corrected.norm()  # bf16 products; 0.1 is 1 − β₁
    return torch.equal(A, before), bool(near)


def oft_rotation(peft: Any, **settings: Any) -> torch.Tensor:
    """The matrix (6, 6) by which peft's OFT multiplies a row, for one and the same Q."""
    model = adapted(nn.Sequential(nn.Linear(IN, IN, bias=False)), peft.OFTConfig(target_modules=["0"], **settings))
    with torch.no_grad():
        model.base_model.model[0].base_layer.weight.copy_(torch.eye(IN))
        for name, parameter in model.named_parameters():
            if "oft_R" in name:
                parameter.copy_(torch.linspace(-0.3, 0.3, parameter.numel()).view_as(parameter))
        return model.eval()(torch.eye(IN))


@fact("peft", where=LAYOUTS_FILE, says="its exact rotation has −Q for Q", expected=True)
def oft_sign(peft: Any) -> bool:
    """OFT's exact rotation is the inverse of the one that the series tends to."""
    exact = oft_rotation(peft, oft_block_size=IN, use_cayley_neumann=False)
    series = oft_rotation(peft, oft_block_size=IN, num_cayley_neumann_terms=60)
    return torch.allclose(exact @ series, torch.eye(IN), atol=1e-4) and not torch.allclose(exact, series, atol=0.1)


@fact("peft", where="peft_lessons/methods/oft.py", says="There 3 means 4", expected=[False, False, True, False])
def oft_fewest_terms(peft: Any) -> list[bool]:
    """OFT's series is the same with 3 terms as with 4, and otherwise another with each number of terms up to 5."""
    rotations = [oft_rotation(peft, oft_block_size=IN, num_cayley_neumann_terms=terms) for terms in range(1, 6)]
    return [torch.equal(one, other) for one, other in pairwise(rotations)]


@fact(
    "peft",
    where="peft_lessons/methods/adalora.py",
    says="Equal scores fall together, as in peft, so that fewer may stay than the budget allows",
    expected=(2, 0),
)
def adalora_ties(peft: Any) -> tuple[int, int]:
    """AdaLoRA's triplets of equal scores fall together, so that fewer may stay than the budget allows."""
    config = peft.AdaLoraConfig(init_r=4, target_r=2, tinit=0, tfinal=1, deltaT=1, total_step=3, target_modules=["0"])
    model = adapted(base(), config)
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            parameter.data.fill_(1.0)
            parameter.grad = torch.ones_like(parameter)
    tuner = model.base_model
    budget, _ = tuner.rankallocator.update_and_allocate(tuner.model, 1)
    return budget, int(tuner.model[0].lora_E["default"].count_nonzero())


@fact(
    "peft",
    where=LAYOUTS_FILE,
    says="peft leaves out triplets whose value is zero and says in `rank_pattern` which they were",
    expected=({"lora_A": (2, 6), "lora_B": (8, 2), "lora_E": (2, 1)}, [2]),
)
def adalora_file(peft: Any) -> tuple[dict[str, tuple[int, ...]], list[int]]:
    """AdaLoRA's file holds the triplets that stayed, and rank_pattern says which these are."""
    config = peft.AdaLoraConfig(init_r=4, target_r=2, tinit=0, tfinal=1, deltaT=1, total_step=3, target_modules=["0"])
    model = adapted(base(), config)
    fill(model)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    for step in (1, 2):
        model.base_model.update_and_allocate(step)
    _, settings, tensors = saved(model)
    kept = {name.rpartition(".")[2]: tuple(tensor.shape) for name, tensor in tensors.items()}
    return dict(sorted(kept.items())), [sum(stayed) for stayed in settings["rank_pattern"].values()]


@fact(
    "peft",
    where="tests/parity.py",
    says="peft also gives those of a prompt, which come first",
    expected=(12, 7),
)
def outputs_of_a_prompt(peft: Any) -> tuple[int, ...]:
    """With a prompt of 5 tokens and 7 of text a model gives 12 outputs, with a prefix 7."""
    tokens: dict[str, Any] = {"num_virtual_tokens": 5, "task_type": "CAUSAL_LM"}
    configs = peft.PromptTuningConfig(**tokens), peft.PrefixTuningConfig(**tokens)
    ids = torch.arange(7)[None]
    with torch.no_grad():
        return tuple(adapted(llama(), config)(ids).logits.shape[1] for config in configs)


@fact(
    "peft",
    where="tests/parity.py",
    says="AdaLoRA's count of ranks, which peft lets train in float64 by accident",
    expected=("torch.float64", True),
)
def adalora_count_of_ranks(peft: Any) -> tuple[str, bool]:
    """AdaLoRA's count of ranks requires a gradient, in float64 when the model is in float64."""
    model = adapted(base(torch.float64), peft.AdaLoraConfig(total_step=10, target_modules=["0"]))
    (count,) = [parameter for name, parameter in model.named_parameters() if "ranknum" in name]
    return str(count.dtype), count.requires_grad


@fact("peft", where="tests/test_peft_parity.py", says="peft refuses PiSSA in float64", expected="TypeError")
def pissa_in_float64(peft: Any) -> str:
    """peft refuses PiSSA in float64."""
    try:
        adapted(base(torch.float64), peft.LoraConfig(init_lora_weights="pissa", target_modules=["0"]))
    except Exception as error:
        return type(error).__name__
    return "accepted"


# --------------------------------------------------------------------------------------------------- counts


def smollm2() -> nn.Module:
    """SmolLM2-135M of transformers, without memory for its weights."""
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes: dict[str, Any] = {
        "vocab_size": 49152,
        "hidden_size": 576,
        "intermediate_size": 1536,
        "num_hidden_layers": 30,
    }
    with torch.device("meta"):
        return LlamaForCausalLM(
            LlamaConfig(**sizes, num_attention_heads=9, num_key_value_heads=3, tie_word_embeddings=True)
        )


@fact(
    "peft",
    where="notebooks/09_the_method_zoo.md",
    says='source="Hugging Face peft counts the same"',
    expected={
        "LoRA, rank 8, q and v": 460_800,
        "LoRA, rank 16, all": 4_884_480,
        "DoRA, rank 16, all": 5_040_000,
        "IA³": 57_600,
        "VeRA, rank 256, q and v": 38_400,
        "prompt tuning, 20 tokens": 11_520,
        "prefix tuning, 20 tokens": 230_400,
    },
)
def trained_numbers(peft: Any) -> dict[str, int]:
    """On SmolLM2 peft's methods train so many numbers."""
    every = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    tokens: dict[str, Any] = {"num_virtual_tokens": 20, "task_type": "CAUSAL_LM"}
    configs = {
        "LoRA, rank 8, q and v": peft.LoraConfig(r=8, target_modules=["q_proj", "v_proj"]),
        "LoRA, rank 16, all": peft.LoraConfig(r=16, target_modules=every),
        "DoRA, rank 16, all": peft.LoraConfig(r=16, use_dora=True, target_modules=every),
        "IA³": peft.IA3Config(target_modules=["k_proj", "v_proj", "down_proj"], feedforward_modules=["down_proj"]),
        "VeRA, rank 256, q and v": peft.VeraConfig(r=256, target_modules=["q_proj", "v_proj"]),
        "prompt tuning, 20 tokens": peft.PromptTuningConfig(**tokens),
        "prefix tuning, 20 tokens": peft.PrefixTuningConfig(**tokens),
    }
    return {name: adapted(smollm2(), config).get_nb_trainable_parameters()[0] for name, config in configs.items()}
