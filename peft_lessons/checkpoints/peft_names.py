"""Hugging Face peft's names for what each method stores. No other file knows them.

BitFit and the bottleneck adapters do not exist in peft; their files have the same form under types of our own.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import fields, replace
from typing import Any

import torch
from torch import Tensor, nn

from peft_lessons.adapters import AdapterConfig, AdapterLayer
from peft_lessons.checkpoints.schema import PREFIX, ROWS, Layout, same
from peft_lessons.methods.adalora import AdaLoRAConfig
from peft_lessons.methods.bitfit import BitFitConfig
from peft_lessons.methods.bottleneck import ParallelAdapterConfig, SerialAdapterConfig
from peft_lessons.methods.dora import DoRAConfig
from peft_lessons.methods.ia3 import IA3Config, IA3InputLinear
from peft_lessons.methods.ia3_conv import IA3Conv
from peft_lessons.methods.layer_norm import LayerNormTuningConfig
from peft_lessons.methods.loftq import LoftQConfig
from peft_lessons.methods.loha import LoHaConfig
from peft_lessons.methods.lokr import LoKrConfig
from peft_lessons.methods.lora import LoRAConfig
from peft_lessons.methods.lora_bias import BiasedLoRAConfig
from peft_lessons.methods.lora_fa import LoRAFAConfig
from peft_lessons.methods.miss import MiSSConfig
from peft_lessons.methods.oft import OFTConfig
from peft_lessons.methods.pissa import OLoRAConfig, PiSSAConfig
from peft_lessons.methods.prefix import PrefixTuningConfig
from peft_lessons.methods.prompt import PromptTuningConfig
from peft_lessons.methods.vera import VeRAConfig
from peft_lessons.models.stacks import is_stack
from peft_lessons.quantization import Codebook
from peft_lessons.targets import own_names


class OFTLayout(Layout):
    """peft says in one setting whether it takes the series and in another how long; its exact rotation has −Q for Q.

    Of the size of the blocks and their number, one is 0. Constrained OFT shortens each Q_i before it uses it: what it
    leaves behind is plain OFT.
    """

    def to_settings(self, config: AdapterConfig) -> dict[str, Any]:
        assert isinstance(config, OFTConfig)
        settings = super().to_settings(config) | {"use_cayley_neumann": config.neumann_terms is not None}
        settings |= {"num_cayley_neumann_terms": 5} if config.neumann_terms is None else {}
        return settings | ({"r": 0} if config.blocks is None else {"oft_block_size": 0})

    def to_config(self, settings: Mapping[str, Any]) -> AdapterConfig:
        settings = {"r": 0, **settings}
        if not settings.get("use_cayley_neumann", True):  # as peft reads it: null is no, too
            settings = {**settings, "use_cayley_neumann": True, "num_cayley_neumann_terms": None}
        if settings["r"] == 0:
            settings = {**settings, "r": None}
        elif settings.get("oft_block_size") == 0:
            settings = {**settings, "oft_block_size": OFTConfig.block_size}
        else:
            raise ValueError(f"of r={settings['r']!r} and oft_block_size, one must be 0")
        return super().to_config(settings)

    def unpack(self, tensors: dict[str, Tensor], settings: Mapping[str, Any]) -> dict[str, Tensor]:
        tensors, longest = super().unpack(tensors, settings), settings.get("eps", 6e-5)
        if not settings.get("coft"):
            return tensors
        if type(longest) not in (int, float) or longest <= 0:
            raise ValueError(f"eps must be a positive number, got {longest!r}")
        return {
            name: shortened(tensor, longest) if name.endswith(tuple(self.tensors.values())) else tensor
            for name, tensor in tensors.items()
        }

    def encode(self, layer: AdapterLayer, tensor: Tensor) -> Tensor:
        assert isinstance(layer.config, OFTConfig)
        return -tensor if layer.config.neumann_terms is None else tensor

    decode = encode


def shortened(Q: Tensor, longest: float) -> Tensor:
    """Rows of Q (blocks, b(b − 1)/2), each of at most the length that constrained OFT allows to one block.

    A row holds half of a skew-symmetric matrix, so the matrix is √2 longer. Shorter ones stay bit for bit.
    """
    lengths = math.sqrt(2) * Q.norm(dim=1, keepdim=True)
    allowed = longest / math.sqrt(len(Q))
    return torch.where(lengths <= allowed, Q, Q * (allowed / lengths))


class IA3Layout(Layout):
    """peft stores a column where outputs are scaled, a row where inputs are, and channels of convolutions in place."""

    def encode(self, layer: AdapterLayer, tensor: Tensor) -> Tensor:
        if isinstance(layer, IA3Conv):
            return layer.for_channels(tensor)
        return tensor[None] if isinstance(layer, IA3InputLinear) else tensor[:, None]

    def decode(self, layer: AdapterLayer, tensor: Tensor) -> Tensor:
        return tensor.flatten()


class LoHaLayout(Layout):
    """The places of a kernel always are two in peft's tensors: the second of a one-dimensional one has one."""

    def encode(self, layer: AdapterLayer, tensor: Tensor) -> Tensor:
        return tensor[..., None] if tensor.ndim == 3 else tensor

    def decode(self, layer: AdapterLayer, tensor: Tensor) -> Tensor:
        flat = tensor.ndim == 4 and isinstance(layer.base_layer, nn.Conv1d)
        return tensor[..., 0] if flat else tensor


class VeRALayout(Layout):
    """The shared pair belongs to no module."""

    def name(self, module: str, tensor: str) -> str:
        return f"base_model.{tensor}" if tensor in SHARED else super().name(module, tensor)


class VeRASeedLayout(VeRALayout):
    """Peft may leave the shared pair out of a file: it is drawn again from the seed, the same on a CPU."""

    def may_lack(self, layer: AdapterLayer, tensor: str) -> bool:
        return tensor in SHARED


class LoftQLayout(Layout):
    """The quantization is an object in peft's settings. What peft cannot say of it is added there."""

    def to_settings(self, config: AdapterConfig) -> dict[str, Any]:
        assert isinstance(config, LoftQConfig)
        quantization = {
            "loftq_bits": config.codebook.bits,
            "loftq_iter": config.iterations,
            "codebook": config.codebook.name,
            "values": list(config.codebook.values),
            "block_size": config.block_size,
            "double": config.double,
        }
        return super().to_settings(config) | {"loftq_config": quantization}

    def to_config(self, settings: Mapping[str, Any]) -> AdapterConfig:
        stored = settings.get("loftq_config")
        expected = {"loftq_iter": int, "codebook": str, "values": list, "block_size": int, "double": bool}
        if not isinstance(stored, dict) or any(type(stored.get(name)) is not kind for name, kind in expected.items()):
            raise ValueError(
                f"loftq_config must hold {', '.join(expected)}; got {stored!r:.120} (peft does not store the quantized "
                "base with a LoftQ adapter, so only files that were saved here say enough)"
            )
        if not all(type(value) in (int, float) for value in stored["values"]):
            raise ValueError("the values in loftq_config must be numbers")
        plain = super().to_config({name: value for name, value in settings.items() if name != "loftq_config"})
        return LoftQConfig(
            **{one.name: getattr(plain, one.name) for one in fields(LoRAConfig)},
            codebook=Codebook(stored["codebook"], tuple(stored["values"])),
            block_size=stored["block_size"],
            double=stored["double"],
            iterations=stored["loftq_iter"],
        )


class AdaLoRALayout(Layout):
    """peft leaves out triplets whose value is zero and says in `rank_pattern` which they were."""

    def unpack(self, tensors: dict[str, Tensor], settings: Mapping[str, Any]) -> dict[str, Tensor]:
        tensors = super().unpack(tensors, settings)
        pattern, rank = settings.get("rank_pattern") or {}, settings["init_r"]
        if not isinstance(pattern, dict) or not all(
            isinstance(kept, list) and len(kept) == rank and all(type(one) is bool for one in kept)
            for kept in pattern.values()
        ):
            raise ValueError(
                f"rank_pattern must map names to lists of {rank} values true or false, got {pattern!r:.80}"
            )
        own = tuple(f".{part}" for part in self.tensors.values())
        if flat := [name for name, tensor in tensors.items() if name.endswith(own) and tensor.ndim != 2]:
            raise ValueError(f"{flat[0]} must be a matrix, got shape {tuple(tensors[flat[0]].shape)}")
        for name, kept in pattern.items():
            module = name.removesuffix(".lora_E").removeprefix(PREFIX)
            mask = torch.tensor(kept, dtype=torch.bool)
            for part, dimension in (("lora_A", 0), ("lora_E", 0), ("lora_B", 1)):
                full = f"{PREFIX}{module}.{part}"
                if full in tensors and tensors[full].shape[dimension] == int(mask.sum()):
                    shape = list(tensors[full].shape)
                    shape[dimension] = len(mask)
                    whole = tensors[full].new_zeros(shape)
                    whole[mask if dimension == 0 else (slice(None), mask)] = tensors[full]
                    tensors[full] = whole
        return tensors


class PromptLayout(Layout):
    """A file does not say where a prompt goes: in front of the model's stack, whatever that is called."""

    def name(self, module: str, tensor: str) -> str:
        return self.tensors[tensor]

    def placed(self, config: AdapterConfig, model: nn.Module) -> AdapterConfig:
        stack = next((name for name, module in own_names(model) if name and is_stack(module)), None)
        return config if stack is None else replace(config, targets=(stack,))


class PrefixLayout(PromptLayout):
    """One flat row for each token."""

    def encode(self, layer: AdapterLayer, tensor: Tensor) -> Tensor:
        return tensor.flatten(1)

    def decode(self, layer: AdapterLayer, tensor: Tensor) -> Tensor:
        return tensor.view_as(layer.get_parameter("prefix"))


TARGETS = {"targets": "target_modules", "modules_to_save": "modules_to_save"}
EXCLUDE = {"exclude": "exclude_modules"}
LAYERS = {"layers": "layers_to_transform", "layers_pattern": "layers_pattern"}
PATTERNS = {"rank_pattern": "rank_pattern", "alpha_pattern": "alpha_pattern"}
LORA: dict[str, Any] = {
    "settings": {
        "rank": "r",
        "alpha": "lora_alpha",
        "dropout": "lora_dropout",
        "rank_stabilized": "use_rslora",
        **TARGETS,
        **EXCLUDE,
        **LAYERS,
        **PATTERNS,
        "trainable_tokens": "trainable_token_indices",
        "target_parameters": "target_parameters",
        "bias": "bias",
    },
    "tensors": {
        "lora_A": "lora_A.weight",
        "lora_B": "lora_B.weight",
        "lora_embedding_A": "lora_embedding_A",
        "lora_embedding_B": "lora_embedding_B",
    },
    "constants": {"fan_in_fan_out": False},
    "defaults": {"lora_dropout": 0.0, "use_rslora": False, "bias": "none"},
    # What only was the start of training, or how it saved memory and explored.
    "ignored": frozenset({"eva_config", "velora_config", "monteclora_config"}),
    # With bias="all" peft writes the biases of modules_to_save three times.
    "dropped": ("lora_velora_embed", "lora_monteclora_sampler", "original_module", "modules_to_save"),
}
# Starts such as "corda" or "lora_ga", which rewrite W, are not among these.
UNCHANGED_BASE: dict[str, tuple[object, ...]] = {
    "init_lora_weights": (True, "gaussian", "orthogonal", "eva", "mica"),
}
BIASED = LORA | {"tensors": {**LORA["tensors"], "lora_B_bias": "lora_B.bias"}}
SHARED = ("vera_A", "vera_B")
VERA: dict[str, Any] = {
    "settings": {
        "rank": "r",
        "initial": "d_initial",
        "dropout": "vera_dropout",
        "seed": "projection_prng_key",
        **TARGETS,
        **LAYERS,
    },
    "tensors": {name: name for name in (*SHARED, "vera_lambda_b", "vera_lambda_d")},
    "constants": {"bias": "none", "fan_in_fan_out": False},
    "accepted": {"init_weights": (True,)},
}
PROMPT: dict[str, Any] = {
    "settings": {"tokens": "num_virtual_tokens"},
    "constants": {"num_transformer_submodules": 1},
    "ignored": frozenset(
        {
            "token_dim",
            "num_layers",
            "num_attention_heads",
            "encoder_hidden_size",
            "init_weights",
            "prompt_tuning_init",
            "prompt_tuning_init_text",
            "tokenizer_name_or_path",
            "tokenizer_kwargs",
        }
    ),
}
PROMPT_TENSORS = {"prompt": "prompt_embeddings", "prefix": "prompt_embeddings"}
BOTTLENECK = {name: name for name in ("down_weight", "down_bias", "up_weight", "up_bias")}

LAYOUTS: tuple[Layout, ...] = (
    Layout(config=LoRAConfig, accepted=UNCHANGED_BASE, **LORA),
    Layout(
        config=DoRAConfig,
        marks={"use_dora": True},
        accepted=UNCHANGED_BASE,
        **LORA | {"tensors": {**LORA["tensors"], "magnitude": "lora_magnitude_vector"}},
    ),
    Layout(config=BiasedLoRAConfig, marks={"lora_bias": True}, accepted=UNCHANGED_BASE, **BIASED),
    # A₀ and B₀ are not stored: they are found again in the base's weight
    Layout(config=PiSSAConfig, marks={"init_lora_weights": "pissa"}, **LORA),
    Layout(config=OLoRAConfig, marks={"init_lora_weights": "olora"}, **LORA),
    LoftQLayout(config=LoftQConfig, marks={"init_lora_weights": "loftq"}, **LORA),
    AdaLoRALayout(
        config=AdaLoRAConfig,
        settings={
            "rank": "init_r",
            "target_rank": "target_r",
            "alpha": "lora_alpha",
            "dropout": "lora_dropout",
            "total_steps": "total_step",
            "warmup_steps": "tinit",
            "final_steps": "tfinal",
            "interval": "deltaT",
            "sensitivity_decay": "beta1",
            "uncertainty_decay": "beta2",
            **TARGETS,
            **EXCLUDE,
            **LAYERS,
        },
        tensors={name: name for name in ("lora_A", "lora_E", "lora_B")},
        constants={"bias": "none", "fan_in_fan_out": False},
        accepted={"init_lora_weights": (True,)},
        ignored=frozenset(("r", "orth_reg_weight", "rank_pattern")),
    ),
    VeRALayout(config=VeRAConfig, **VERA | {"constants": {**VERA["constants"], "save_projection": True}}),
    VeRASeedLayout(config=VeRAConfig, marks={"save_projection": False}, **VERA),
    LoHaLayout(
        config=LoHaConfig,
        settings={
            "rank": "r",
            "alpha": "alpha",
            "effective": "use_effective_conv2d",
            **TARGETS,
            **EXCLUDE,
            **LAYERS,
            **PATTERNS,
        },
        tensors={
            "loha_B1": "hada_w1_a",
            "loha_A1": "hada_w1_b",
            "loha_T1": "hada_t1",
            "loha_B2": "hada_w2_a",
            "loha_A2": "hada_w2_b",
            "loha_T2": "hada_t2",
        },
        defaults={"use_effective_conv2d": False},
        accepted={"init_weights": (True,)},
        ignored=frozenset(("rank_dropout", "module_dropout")),
    ),
    Layout(
        config=LoKrConfig,
        settings={
            "rank": "r",
            "alpha": "alpha",
            "factor": "decompose_factor",
            "decompose_both": "decompose_both",
            **TARGETS,
            **EXCLUDE,
            **LAYERS,
            **PATTERNS,
        },
        tensors={
            "lokr_C": "lokr_w1",
            "lokr_C_B": "lokr_w1_a",
            "lokr_C_A": "lokr_w1_b",
            "lokr_D": "lokr_w2",
            "lokr_D_B": "lokr_w2_a",
            "lokr_D_A": "lokr_w2_b",
        },
        accepted={"init_weights": (True, "lycoris")},
        sides=(),  # a rank may be larger than all of them, which means none of that rank
        ignored=frozenset(("rank_dropout", "rank_dropout_scale", "module_dropout", "use_effective_conv2d")),
    ),
    Layout(
        config=MiSSConfig,
        settings={"rank": "r", "dropout": "miss_dropout", **TARGETS, **EXCLUDE, **LAYERS},
        tensors={"miss_D": "miss_block"},
        constants={"bias": "none"},
        accepted={"init_weights": (True,)},
        ignored=frozenset(("mini_r",)),  # of the variant "mini" alone, which init_weights would name
    ),
    OFTLayout(
        config=OFTConfig,
        settings={
            "block_size": "oft_block_size",
            "blocks": "r",
            "shared": "block_share",
            "neumann_terms": "num_cayley_neumann_terms",
            **TARGETS,
            **EXCLUDE,
            **LAYERS,
        },
        tensors={"oft_Q": "oft_R.weight", "oft_embedding_Q": "oft_embedding_R.weight"},
        constants={"bias": "none", "fan_in_fan_out": False, "use_cayley_neumann": True},
        accepted={"init_weights": (True,)},
        defaults={"block_share": False},
        ignored=frozenset(("coft", "eps", "module_dropout")),
    ),
    IA3Layout(
        config=IA3Config,
        settings={"feedforward_targets": "feedforward_modules", **TARGETS, **EXCLUDE},
        tensors={"ia3_l": "ia3_l"},
        constants={"fan_in_fan_out": False},
        accepted={"init_ia3_weights": (True,)},
    ),
    Layout(
        config=LayerNormTuningConfig,
        settings={**TARGETS, **EXCLUDE},
        tensors={"tuned.weight": "ln_tuning_layers.weight", "tuned.bias": "ln_tuning_layers.bias"},
    ),
    PromptLayout(config=PromptTuningConfig, tensors=PROMPT_TENSORS, **PROMPT),
    PrefixLayout(config=PrefixTuningConfig, tensors=PROMPT_TENSORS, **PROMPT),
    Layout(
        config=BitFitConfig,
        settings={**TARGETS, **EXCLUDE, **LAYERS},
        tensors={"bias_delta": "bias_delta"},
    ),
    Layout(
        config=SerialAdapterConfig,
        settings={"bottleneck": "bottleneck", **TARGETS, **EXCLUDE, **LAYERS},
        tensors=BOTTLENECK,
    ),
    Layout(
        config=ParallelAdapterConfig,
        settings={"bottleneck": "bottleneck", "scaling": "scaling", **TARGETS, **EXCLUDE, **LAYERS},
        tensors=BOTTLENECK,
    ),
)

# Which of a LoRA's matrices trained is not part of what it computes.
SAVED_AS: dict[type[AdapterConfig], type[AdapterConfig]] = {LoRAFAConfig: LoRAConfig}


def layout_of(config: AdapterConfig) -> Layout:
    """Return the layout for a config. Raises TypeError for one of a method that has no layout."""
    kind = SAVED_AS.get(type(config), type(config))
    for layout in LAYOUTS:
        if layout.config is kind:
            return layout
    possible = ", ".join(layout.config.__name__ for layout in LAYOUTS)
    raise TypeError(f"cannot save a {type(config).__name__} in Hugging Face's layout; possible: {possible}")


def in_our_words(settings: Mapping[str, Any], names: Iterable[str]) -> dict[str, Any]:
    """Translate the settings of a file with tensors of these names: peft's several ways to say a thing become one.

    Most language models have no biases, so that "all" of them are none. Beside parameters no modules may be null.
    Tokens without an embedding's name are those of the one in the file.
    """
    settings = dict(settings)
    if settings.get("bias") not in (None, "none"):
        biases = [name for name in names if name.endswith(".bias") and not name.endswith("lora_B.bias")]
        if not biases:
            settings["bias"] = "none"
    if settings.get("target_parameters") and settings.get("target_modules") is None:
        settings["target_modules"] = []
    if isinstance(ids := settings.get("trainable_token_indices"), list):  # of the embedding, whatever its name
        embeddings = [name.removeprefix(PREFIX).removesuffix(f".{ROWS}") for name in names if name.endswith(ROWS)]
        settings["trainable_token_indices"] = {name: ids for name in embeddings}
    return settings


def layout_for(settings: Mapping[str, Any]) -> Layout:
    """Return the layout of a file with these settings: that of its type whose marks fit, the most marks first.

    Raises ValueError for a type that is not known.
    """
    fitting = [
        layout
        for layout in LAYOUTS
        if layout.peft_type == settings.get("peft_type")
        and all(same(settings.get(name), value) for name, value in layout.marks.items())
    ]
    if not fitting:
        possible = ", ".join(repr(kind) for kind in dict.fromkeys(layout.peft_type for layout in LAYOUTS))
        raise ValueError(f"describes {settings.get('peft_type')!r}; supported: {possible}")
    return max(fitting, key=lambda layout: len(layout.marks))
