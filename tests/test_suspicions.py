"""The checkup: each fault is named by its own check and by no other, and sound runs give no alarm."""

import json
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from peft_lessons import (
    ALL_LINEAR,
    DoRAConfig,
    IA3Config,
    LoRAConfig,
    checkup,
    inject,
    load_adapter,
    merge,
    remove_adapters,
    save_adapter,
    suspicions,
)
from peft_lessons.adapters import named_adapters
from peft_lessons.data import austen
from peft_lessons.models import Decoder, load_smollm2, load_tiny_gpt, tiny_gpt
from peft_lessons.suspicions import CHECKS
from peft_lessons.tasks import COUNTRY_ADAPTER, DEVILS_ADAPTER, country_records, devils_definitions
from peft_lessons.training import IGNORED, consecutive_windows, padded, shuffled, train, windows

CONFIG = LoRAConfig(rank=4, alpha=8, dropout=0.1)
RATE, STEPS = 3e-3, 20
END = 0  # the tiny GPT's end token, with which its rows are padded, too


def tokenizer() -> Any:
    return load_tiny_gpt()[1]


def questions() -> list[tuple[list[int], list[int]]]:
    """Prompts that begin alike, as chats do, and answers that end."""
    encode = tokenizer().encode
    names = ("Emma", "Anne", "Elinor", "Fanny", "Jane", "Catherine", "Harriet", "Louisa")
    return [
        (encode(f"Question: who is {name}? Answer:"), [*encode(f" {name} is a friend." + " Indeed." * i), END])
        for i, name in enumerate(names)
    ]


def batches() -> list[tuple[torch.Tensor, torch.Tensor]]:
    return [padded(questions()[i : i + 4], END) for i in (0, 4)]


def fresh(config: Any = CONFIG) -> nn.Module:
    torch.manual_seed(0)
    return inject(load_tiny_gpt()[0], config)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """An adapter that learnt the answers."""
    model = fresh()
    train(model, batches() * STEPS, steps=STEPS, learning_rate=RATE)
    return save_adapter(model, CONFIG, tmp_path_factory.mktemp("checkup") / "adapter", base_model="tiny GPT")


def loaded(folder: Path) -> nn.Module:
    return load_adapter(load_tiny_gpt()[0], folder)


# ------------------------------------------------------------------------------------------------------------- faults


Fault = Callable[[Path], tuple[Any, ...]]
LABELS = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def in_use(break_it: Callable[[nn.Module], object]) -> Fault:
    """A trained adapter in a model that `break_it` changes, or replaces."""

    def made(folder: Path) -> tuple[Any, ...]:
        model = loaded(folder)
        replaced = break_it(model)
        return (replaced if isinstance(replaced, Decoder) else model), folder, batches(), {}

    return made


def to_come(
    config: Any = CONFIG, break_it: Callable[[nn.Module], object] = lambda model: None, **settings: Any
) -> Fault:
    """Training that is about to begin."""

    def made(folder: Path) -> tuple[Any, ...]:
        model = fresh(config)
        break_it(model)
        return model, config, batches(), settings

    return made


def with_data(change: LABELS, **settings: Any) -> Fault:
    def made(folder: Path) -> tuple[Any, ...]:
        return fresh(), CONFIG, [(ids, change(ids, labels)) for ids, labels in batches()], {"eos_id": END, **settings}

    return made


def edited(folder: Path, **settings: Any) -> Path:
    copy = folder.parent / "edited"
    shutil.copytree(folder, copy, dirs_exist_ok=True)
    path = copy / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | settings))
    return copy


@torch.no_grad()
def each(model: nn.Module, change: Callable[[Any], object]) -> None:
    for _, layer in named_adapters(model):
        change(layer)


def transpose(model: nn.Module) -> None:
    with torch.no_grad():
        for _, layer in named_adapters(model):
            if layer.in_features == layer.out_features:
                layer.lora_A.data, layer.lora_B.data = layer.lora_B.T.contiguous(), layer.lora_A.T.contiguous()


def forget_alpha(model: nn.Module) -> None:
    each(model, lambda layer: setattr(layer, "config", replace(layer.config, alpha=layer.config.rank)))


def another_base(folder: Path) -> tuple[Any, ...]:
    return loaded(folder), edited(folder, base_model_name_or_path="HuggingFaceTB/SmolLM2-135M"), [], {}


def named_otherwise(folder: Path) -> tuple[Any, ...]:
    model = loaded(folder)
    model.config = SimpleNamespace(_name_or_path="somebody/Other-1B")
    return model, edited(folder, base_model_name_or_path="somebody/Base-1B"), [], {}


def changed_base(folder: Path) -> tuple[Any, ...]:
    """The right names and shapes, and other weights below them."""
    model = loaded(folder)
    torch.manual_seed(1)
    with torch.no_grad():
        for _, layer in named_adapters(model):
            layer.base_layer.weight.add_(
                0.5 * layer.base_layer.weight.std() * torch.randn_like(layer.base_layer.weight)
            )
            layer.lora_B.neg_()
    save_adapter(model, CONFIG, folder.parent / "negated")
    return model, folder.parent / "negated", batches(), {}


def untrained(folder: Path) -> tuple[Any, ...]:
    return fresh(), save_adapter(fresh(), CONFIG, folder.parent / "zero"), batches(), {}


class Mixture(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gate, self.experts = nn.Linear(8, 2), nn.ModuleList([nn.Linear(8, 8)])


def router(folder: Path) -> tuple[Any, ...]:
    config = LoRAConfig(rank=1, targets=("gate",))
    return inject(nn.ModuleDict({"mlp": Mixture()}), config), config, [], {}


def masked(folder: Path) -> tuple[Any, ...]:
    """Left padding, hidden by a mask and scored."""
    ids = torch.stack(
        [
            torch.cat((torch.full((3,), END), torch.tensor(prompt[:4] + answer[:5])))
            for prompt, answer in questions()[:2]
        ]
    )
    mask = (torch.arange(12) >= 3).long().expand(2, -1)
    labels = ids.clone()
    labels[:, 3:7] = IGNORED
    return fresh(), CONFIG, [{"input_ids": ids, "labels": labels, "attention_mask": mask}], {}


def never_called(model: nn.Module) -> None:
    model.model.layers[0].self_attn.q_proj.adapted = model.model.layers[0].self_attn.q_proj.base_layer.forward


def shifted(ids: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return torch.cat((labels[:, 1:], torch.full_like(labels[:, :1], IGNORED)), dim=1)


def without_end(ids: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return labels.masked_fill(labels == END, IGNORED)


FAULTS: dict[str, tuple[str, str, Fault]] = {
    "no adapter in the model": ("adapts_nothing", "computes as its base", in_use(lambda model: load_tiny_gpt()[0])),
    "merged, and looked for": ("adapts_nothing", "has no adapter", in_use(merge)),
    "switched off": (
        "adapts_nothing",
        "switched off",
        in_use(lambda model: each(model, lambda layer: setattr(layer, "enabled", False))),
    ),
    "other places": (
        "is_another_adapter",
        "only one of the two has",
        lambda folder: (fresh(replace(CONFIG, targets=("q_proj",))), folder, [], {}),
    ),
    "injected, never loaded": (
        "is_another_adapter",
        "other numbers than the folder",
        lambda folder: (fresh(), folder, [], {}),
    ),
    "transposed factors": ("is_another_adapter", "factors of .* are transposed", in_use(transpose)),
    "α forgotten": (
        "is_another_adapter",
        "scales its update by 1, and the folder's α and rank by 2",
        in_use(forget_alpha),
    ),
    "another base, by its shape": ("has_another_base", r"which has vocab_size 49152, hidden_size 576", another_base),
    "another base, by its name": (
        "has_another_base",
        "names 'somebody/Base-1B' as its base, and this model is",
        named_otherwise,
    ),
    "another base, by its loss": ("helps_nothing", "less likely with the adapter", changed_base),
    "never trained": ("changes_nothing", "Is B still zero", untrained),
    "dropout left on": ("leaves_dropout_on", "each answer is another", in_use(lambda model: model.train())),
    "the router alone": ("adapts_the_router_alone", "mlp.gate sends tokens to experts", router),
    "nothing requires a gradient": (
        "trains_nothing",
        "no parameter of the model requires",
        to_come(break_it=lambda model: model.requires_grad_(False)),
    ),
    "a module that is not called": (
        "trains_nothing",
        "no gradient reaches .*q_proj.lora_A",
        to_come(break_it=never_called),
    ),
    "both factors zero": (
        "trains_nothing",
        "every gradient is zero",
        to_come(break_it=lambda model: each(model, lambda layer: layer.lora_A.zero_())),
    ),
    "adapters in bf16": (
        "trains_in_16_bits",
        "keep what trains in fp32",
        to_come(break_it=lambda model: model.bfloat16()),
    ),
    "a rate of 5e-7": (
        "learns_too_slowly",
        "20 steps at a rate of 5e-07 can lower the loss of",
        to_come(learning_rate=5e-7, steps=STEPS),
    ),
    "a rate of 1": (
        "learns_too_fast",
        "one step at a rate of 1 takes the loss from",
        to_come(learning_rate=1.0, steps=STEPS),
    ),
    "the prompt is scored": (
        "scores_the_prompt",
        "begins with the same 3 tokens",
        with_data(lambda ids, labels: torch.where(torch.arange(ids.shape[1]) < 5, ids, labels)),
    ),
    "padding is scored": (
        "scores_padding",
        "end in token 0 again and again",
        with_data(lambda ids, labels: torch.where(ids == END, ids, labels)),
    ),
    "hidden padding is scored": ("scores_padding", "what their attention_mask hides", masked),
    "labels shifted twice": ("shifts_labels_twice", "one place further on", with_data(shifted)),
    "no end is learnt": ("never_ends", "none of 8 answers ends in a scored end token", with_data(without_end)),
    "one example": (
        "repeats_one_example",
        "all 8 examples are the same one",
        lambda folder: (fresh(), CONFIG, [padded(questions()[:1] * 4, END)] * 2, {}),
    ),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_named_by_its_check_alone(name: str, folder: Path) -> None:
    check, message, made = FAULTS[name]
    model, adapter, data, settings = made(folder)
    (found,) = checkup(model, adapter, data, **settings)
    assert found.check == check and str(found) == found.says and len(found.says) < 300
    assert re.search(message, found.says), found.says


def test_memory_that_will_not_be_enough(folder: Path, monkeypatch) -> None:
    monkeypatch.setattr(suspicions, "available_memory", lambda: 10**6)
    (found,) = checkup(fresh(), CONFIG, batches())
    assert found.check == "runs_out_of_memory" and "a step on 4 × " in found.says
    monkeypatch.setattr(suspicions, "available_memory", lambda: 10**9)
    assert not checkup(fresh(), CONFIG, batches())


def test_every_check_has_a_fault() -> None:
    assert {check for check, *_ in FAULTS.values()} | {"runs_out_of_memory"} == {check.__name__ for check in CHECKS}


# --------------------------------------------------------------------------------------------------------- sound runs


def test_nothing_is_changed(folder: Path) -> None:
    model = fresh()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    state = torch.get_rng_state()
    assert not checkup(model.train(), CONFIG, batches(), learning_rate=RATE, eos_id=END)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert model.training and all(parameter.grad is None for parameter in model.parameters())
    assert torch.equal(torch.get_rng_state(), state)
    assert checkup(model, folder) and model.training


@pytest.mark.parametrize(
    "config",
    [CONFIG, DoRAConfig(rank=4), IA3Config(), LoRAConfig(rank=1, targets=("q_proj", "v_proj"))],
    ids=lambda config: type(config).__name__,
)
def test_no_alarm_before_training_on_text_and_on_questions(config: Any) -> None:
    text = tokenizer().encode(next(iter(austen().values()))[:20_000])
    for data in (
        windows(text, batch_size=4, length=32, seed=0),
        shuffled(questions(), batch_size=4, pad_id=END, seed=0),
        consecutive_windows(text, batch_size=4, length=64),
    ):
        assert not checkup(fresh(config), config, data, learning_rate=RATE, steps=60, eos_id=END)


PLACES = [
    {"targets": ALL_LINEAR},
    {"targets": re.compile(r".*q_proj")},
    {"targets": ("embed_tokens", "lm_head")},
    {"targets": ("q_proj",), "layers": (1,)},
    {"targets": ("q_proj",), "modules_to_save": ("norm",), "trainable_tokens": {"embed_tokens": (3,)}},
]


@pytest.mark.parametrize("where", PLACES, ids=str)
def test_no_alarm_wherever_an_adapter_is(where: dict[str, Any]) -> None:
    config = LoRAConfig(rank=2, **where)
    assert not checkup(fresh(config), config, batches(), learning_rate=RATE, eos_id=END)


def test_models_of_transformers(tmp_path: Path) -> None:
    """With mappings as batches, and an end token that the model itself names."""
    from transformers import LlamaForCausalLM

    def base() -> nn.Module:
        return LlamaForCausalLM.from_pretrained(tiny_gpt.FOLDER, dtype=torch.float32)

    config = LoRAConfig(rank=4, targets=("q_proj", "v_proj"))
    data = [{"input_ids": ids, "labels": labels, "attention_mask": torch.ones_like(ids)} for ids, labels in batches()]
    model = inject(base(), config)
    assert not checkup(model, config, data, learning_rate=RATE)
    train(model, data * STEPS, steps=STEPS, learning_rate=RATE)
    saved = save_adapter(model, config, tmp_path / "adapter", base_model="somebody/tiny_gpt")
    assert not checkup(load_adapter(base(), saved), saved, data)
    endless = [batch | {"labels": without_end(batch["input_ids"], batch["labels"])} for batch in data]
    assert [one.check for one in checkup(model, saved, endless)] == ["never_ends"]


def test_no_alarm_after_training(folder: Path) -> None:
    assert not checkup(loaded(folder), folder, batches(), eos_id=END)
    assert not checkup(loaded(folder), folder)
    assert not checkup(load_tiny_gpt()[0], None, batches())


def test_batches_are_looked_at_as_far_as_needed() -> None:
    text, seen = tokenizer().encode("It was a truth universally acknowledged. " * 20), []

    def counted() -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        for batch in windows(text, batch_size=2, length=16, seed=0):
            seen.append(batch)
            yield batch

    checkup(fresh(), CONFIG, counted())
    assert len(seen) == suspicions.BATCHES


@pytest.mark.slow
@pytest.mark.parametrize(
    ("adapter", "task"),
    [(DEVILS_ADAPTER, devils_definitions), (COUNTRY_ADAPTER, country_records)],
    ids=["devil", "countries"],
)
def test_no_alarm_on_the_courses_own_adapters_and_data(adapter: Path, task: Callable[[Any], Any]) -> None:
    model, tokens = load_smollm2()
    examples = task(tokens)
    held_out = [padded(examples.held_out[:4], tokens.eos_id)]
    assert not checkup(load_adapter(model, adapter), adapter, held_out, eos_id=tokens.eos_id)
    (found,) = checkup(model, COUNTRY_ADAPTER if adapter == DEVILS_ADAPTER else DEVILS_ADAPTER)
    assert found.check == "is_another_adapter"
    config = LoRAConfig(rank=4)
    data = islice(shuffled(examples.train, batch_size=2, pad_id=tokens.eos_id, seed=0), 2)
    assert not checkup(inject(remove_adapters(model), config), config, data, learning_rate=5e-4, eos_id=tokens.eos_id)


IDS = torch.ones(2, 8, dtype=torch.long)


@pytest.mark.parametrize(
    ("batch", "given"),
    [
        ({"input_ids": IDS}, "input_ids torch.int64 (2, 8)"),
        ({"input_ids": IDS, "labels": None}, "labels NoneType"),
        ((IDS,), "got input_ids torch.int64 (2, 8)"),
        ((IDS, IDS, IDS), "a third part"),
        ((IDS, IDS[:, :5]), "labels torch.int64 (2, 5)"),
        ((IDS.float(), IDS), "input_ids torch.float32 (2, 8)"),
        (("some", "text"), "input_ids str, labels str"),
        ((), "got nothing"),
    ],
)
def test_a_batch_that_is_none_is_named(batch, given):
    with pytest.raises(ValueError, match=re.escape(given)):
        checkup(inject(load_tiny_gpt()[0], CONFIG), CONFIG, [batch])


def test_an_adapter_is_a_config_or_a_folder():
    with pytest.raises(TypeError, match=re.escape("got {'r': 4}")):
        checkup(load_tiny_gpt()[0], {"r": 4})
