"""What each method is, said once: its config and layers, its page and paper, peft's name for it, how much it trains.

The exports of the package, the types of adapter files, the table in docs/methods.md and the reference on the site
follow from here. Names stand for what they name, so that the table can be read where torch is missing.
"""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Method:
    """A row of the table.

    `trains` counts the numbers that train in one place: in words of the config, its layer and the decoder's config.
    """

    config: str
    pages: dict[
        str, tuple[str, ...]
    ]  # files of this folder, and what each has beside the config, which is in the first
    paper: str  # on arXiv
    peft_type: str  # in `adapter_config.json`; where Hugging Face peft has no such method, a type of our own
    trains: str


METHODS: dict[str, Method] = {
    "lora": Method(
        config="LoRAConfig",
        pages={"lora": ("LoRALinear",), "lora_conv": ("LoRAConv",), "lora_embedding": ("LoRAEmbedding",)},
        paper="2106.09685",
        peft_type="LORA",
        trains="rank · (in_features + out_features); in a stack of experts for each of them",
    ),
    "rslora": Method(
        config="LoRAConfig",
        pages={"lora": ("LoRALinear",)},
        paper="2312.03732",
        peft_type="LORA",
        trains="rank · (in_features + out_features)",
    ),
    "lora-bias": Method(
        config="BiasedLoRAConfig",
        pages={"lora_bias": ("BiasedLoRALinear", "BiasedLoRAConv")},
        paper="2106.09685",
        peft_type="LORA",
        trains="rank · (in_features + out_features) + out_features",
    ),
    "lora-fa": Method(
        config="LoRAFAConfig",
        pages={"lora_fa": ("LoRAFALinear",)},
        paper="2308.03303",
        peft_type="LORA",
        trains="rank · out_features",
    ),
    "pissa": Method(
        config="PiSSAConfig",
        pages={"pissa": ("PiSSALinear",)},
        paper="2404.02948",
        peft_type="LORA",
        trains="rank · (in_features + out_features)",
    ),
    "olora": Method(
        config="OLoRAConfig",
        pages={"pissa": ("OLoRALinear",)},
        paper="2406.01775",
        peft_type="LORA",
        trains="rank · (in_features + out_features)",
    ),
    "loftq": Method(
        config="LoftQConfig",
        pages={"loftq": ("LoftQLinear",)},
        paper="2310.08659",
        peft_type="LORA",
        trains="rank · (in_features + out_features)",
    ),
    "dora": Method(
        config="DoRAConfig",
        pages={"dora": ("DoRALinear",), "dora_conv": ("DoRAConv",), "dora_embedding": ("DoRAEmbedding",)},
        paper="2402.09353",
        peft_type="LORA",
        trains="rank · (in_features + out_features) + out_features",
    ),
    "adalora": Method(
        config="AdaLoRAConfig",
        pages={"adalora": ("AdaLoRALinear", "RankAllocator"), "adalora_conv": ("AdaLoRAConv",)},
        paper="2303.10512",
        peft_type="ADALORA",
        trains="rank · (in_features + out_features + 1)",
    ),
    "vera": Method(
        config="VeRAConfig",
        pages={"vera": ("VeRALinear",)},
        paper="2310.11454",
        peft_type="VERA",
        trains="rank + out_features",
    ),
    "loha": Method(
        config="LoHaConfig",
        pages={"loha": ("LoHaLinear",), "loha_conv": ("LoHaConv",)},
        paper="2108.06098",
        peft_type="LOHA",
        trains="2 · rank · (in_features + out_features)",
    ),
    "lokr": Method(
        config="LoKrConfig",
        pages={"lokr": ("LoKrLinear",)},
        paper="2309.14859",
        peft_type="LOKR",
        trains="out_1 · in_1 + rank · (out_2 + in_2); for high ranks out_2 · in_2 in place of the last",
    ),
    "miss": Method(
        config="MiSSConfig",
        pages={"miss": ("MiSSLinear",)},
        paper="2409.15371",
        peft_type="MISS",
        trains="rank · out_features",
    ),
    "oft": Method(
        config="OFTConfig",
        pages={"oft": ("OFTLinear",), "oft_embedding": ("OFTEmbedding",)},
        paper="2306.07280",
        peft_type="OFT",
        trains="in_features · (block_size − 1) / 2",
    ),
    "ia3": Method(
        config="IA3Config",
        pages={"ia3": ("IA3OutputLinear", "IA3InputLinear"), "ia3_conv": ("IA3Conv",)},
        paper="2205.05638",
        peft_type="IA3",
        trains="out_features; in feed-forward targets in_features",
    ),
    "bitfit": Method(
        config="BitFitConfig",
        pages={"bitfit": ("BitFitLinear",)},
        paper="2106.10199",
        peft_type="BITFIT",
        trains="out_features",
    ),
    "layer-norm": Method(
        config="LayerNormTuningConfig",
        pages={"layer_norm": ("LayerNormTuning",)},
        paper="2312.11420",
        peft_type="LN_TUNING",
        trains="hidden_size; twice as many with a bias",
    ),
    "serial": Method(
        config="SerialAdapterConfig",
        pages={"bottleneck": ("SerialAdapter",)},
        paper="1902.00751",
        peft_type="SERIAL_ADAPTER",
        trains="2 · bottleneck · hidden_size + bottleneck + hidden_size",
    ),
    "parallel": Method(
        config="ParallelAdapterConfig",
        pages={"bottleneck": ("ParallelAdapter",)},
        paper="2110.04366",
        peft_type="PARALLEL_ADAPTER",
        trains="2 · bottleneck · hidden_size + bottleneck + hidden_size",
    ),
    "prompt": Method(
        config="PromptTuningConfig",
        pages={"prompt": ("PromptTuning",)},
        paper="2104.08691",
        peft_type="PROMPT_TUNING",
        trains="tokens · hidden_size",
    ),
    "prefix": Method(
        config="PrefixTuningConfig",
        pages={"prefix": ("PrefixTuning",)},
        paper="2101.00190",
        peft_type="PREFIX_TUNING",
        trains="tokens · num_hidden_layers · 2 · num_key_value_heads · head_dim",
    ),
}

CONFIGS = tuple(dict.fromkeys(method.config for method in METHODS.values()))


def names_by_page() -> dict[str, tuple[str, ...]]:
    """Return what the package takes from each page."""
    found: dict[str, dict[str, None]] = {}
    for method in METHODS.values():
        first, *_ = method.pages
        for page, names in method.pages.items():
            found.setdefault(page, {}).update(dict.fromkeys((*([method.config] if page == first else []), *names)))
    return {page: tuple(names) for page, names in found.items()}


def peft_type(config: type) -> str:
    """Return what adapter files call the method of a config of this class."""
    return next(method.peft_type for method in METHODS.values() if method.config == config.__name__)
