"""What a method of the registry lacks anywhere, by name: an example, a case in the tests, its files, its counts."""

import doctest
import importlib
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import contract
import parity
import peft
import pytest
from accounting_cases import SHAPE, TINY, tiny
from method_cases import CASES, COUNTS, NOT_IN_PEFT, REFUSED
from torch import nn

import peft_lessons
from peft_lessons.accounting import trained_parameters
from peft_lessons.adapters import AdapterConfig, AdapterLayer, inject, named_adapters
from peft_lessons.checkpoints.peft_names import LAYOUTS, SAVED_AS, layout_of
from peft_lessons.methods import registry
from peft_lessons.methods.registry import METHODS, Method
from tools.site.reference import methods_page

ROOT = Path(__file__).resolve().parents[1]
TABLE = (ROOT / "docs/methods.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", METHODS)
def test_nothing_is_lacking(name: str) -> None:
    assert lacks(name) == []


def lacks(name: str) -> list[str]:
    """What there is not yet of the method called `name`, in the order in which it is written."""
    method = METHODS[name]
    config = getattr(peft_lessons, method.config, None)
    if config is None:
        return [f"a config {method.config} on its page, peft_lessons/methods/{next(iter(method.pages))}.py"]
    return [what for what, there in parts(name, method, config) if not there]


def parts(name: str, method: Method, config: type[AdapterConfig]) -> Iterator[tuple[str, bool]]:
    """Each thing that a method has, and whether this one has it."""
    pages = [importlib.import_module(f"peft_lessons.methods.{page}") for page in method.pages]
    yield "its layer as the first name of its page", next(iter(method.pages.values()))[0] == config.layer.__name__
    for page, names in zip(pages, method.pages.values(), strict=True):
        yield from ((f"{one} on the page {page.__name__}", hasattr(page, one)) for one in names)
    yield f"its paper, arXiv:{method.paper}, on its page", f"arXiv:{method.paper}" in whole_text(pages[0])
    yield f"an example in the docstring of {method.config}", bool(doctest.DocTestParser().get_examples(text(config)))
    yield "a page on the site", all(f"automodule:: {page.__name__}\n" in methods_page() for page in pages)
    yield "a row in docs/methods.md: python -m tools.artifacts.method_table", f"| {name} | `{method.config}` |" in TABLE
    yield "a layout in checkpoints/peft_names.py", SAVED_AS.get(config, config) in {layout.config for layout in LAYOUTS}
    yield "a case in tests/method_cases.py", name in CASES and type(CASES[name].config) is config
    if name not in CASES:
        return
    yield "the contract over all bases", {base for case, base in contract.CASES if case == name} >= {"dense", "conv1d"}
    yield (
        "the comparison with peft",
        (method.peft_type not in peft.PeftType.__members__ or name in NOT_IN_PEFT)
        or (any(case == name for case, _ in parity.CASES)),
    )
    yield "a formula in accounting/adapter_costs.py", is_planned(name)
    yield "a count of others in COUNTS, tests/method_cases.py", any(type(one) is config for _, one, _ in COUNTS)
    yield "what it refuses in REFUSED, tests/method_cases.py", any(issubclass(config, one) for one, *_ in REFUSED)


def is_planned(name: str) -> bool:
    try:
        return trained_parameters(SHAPE, CASES[name].config) > 0
    except TypeError:
        return False


def text(config: type) -> str:
    return config.__doc__ or ""


def whole_text(page: ModuleType) -> str:
    return Path(page.__file__ or "").read_text(encoding="utf-8")


def test_what_is_lacking_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """A method that is a page and a row in the registry, and nothing else."""
    row = {"paper": "0000.00000", "peft_type": "LORA", "trains": "rank"}
    monkeypatch.setitem(METHODS, "no-page", Method(config="NoPageConfig", pages={"no_page": ("NoPage",)}, **row))
    assert lacks("no-page") == ["a config NoPageConfig on its page, peft_lessons/methods/no_page.py"]
    page = ModuleType("peft_lessons.methods.lonely")
    page.__file__ = registry.__file__
    config = type("LonelyConfig", (AdapterConfig,), {"layer": AdapterLayer, "__doc__": "How lonely."})
    monkeypatch.setitem(sys.modules, page.__name__, page)
    monkeypatch.setattr(peft_lessons, "LonelyConfig", config, raising=False)
    monkeypatch.setitem(METHODS, "lonely", Method(config="LonelyConfig", pages={"lonely": ("LonelyLinear",)}, **row))
    assert lacks("lonely") == [
        "its layer as the first name of its page",
        "LonelyLinear on the page peft_lessons.methods.lonely",
        "its paper, arXiv:0000.00000, on its page",
        "an example in the docstring of LonelyConfig",
        "a row in docs/methods.md: python -m tools.artifacts.method_table",
        "a layout in checkpoints/peft_names.py",
        "a case in tests/method_cases.py",
    ]
    monkeypatch.setitem(CASES, "lonely", type(CASES["lora"])(config(targets=("q_proj",))))
    assert lacks("lonely")[-5:] == [
        "the contract over all bases",
        "the comparison with peft",
        "a formula in accounting/adapter_costs.py",
        "a count of others in COUNTS, tests/method_cases.py",
        "what it refuses in REFUSED, tests/method_cases.py",
    ]


def test_every_page_belongs_to_a_method_or_is_none() -> None:
    """A file that nobody named in the registry would be exported and documented nowhere."""
    beside = {"combining", "lora_plus", "partial", "registry"}
    pages = {path.stem for path in (ROOT / "peft_lessons/methods").glob("[!_]*.py")}
    assert pages - beside == registry.names_by_page().keys()


def test_cases_are_methods_or_variants_of_one() -> None:
    assert CASES.keys() >= METHODS.keys()
    assert {type(case.config).__name__ for case in CASES.values()} == set(registry.CONFIGS)


class Words(Mapping[str, Any]):
    """What the words of `trains` mean where a method adapts `layer`."""

    def __init__(self, layer: AdapterLayer) -> None:
        self.homes = (layer.config, layer, layer.base_layer, TINY)

    def __getitem__(self, word: str) -> Any:
        return next(getattr(home, word) for home in self.homes if hasattr(home, word))

    def __iter__(self) -> Iterator[str]:
        raise NotImplementedError

    def __len__(self) -> int:
        raise NotImplementedError


@pytest.mark.parametrize("name", METHODS)
def test_the_registry_counts_what_trains(name: str) -> None:
    """In the first place of a small decoder that the method adapts."""
    _, layer = next(named_adapters(tiny(CASES[name].config)))
    formula, _, _ = METHODS[name].trains.partition(";")
    count = eval(formula.replace("·", "*").replace("−", "-"), {}, Words(layer))
    names = {key for key, _ in layer.named_parameters() if "base_layer." not in key}
    assert count == sum(p.numel() for key, p in layer.named_parameters() if key in names and p.requires_grad) > 0


PLACES: dict[str, Callable[[], nn.Module]] = {"conv": lambda: nn.Conv2d(8, 8, 3), "words": lambda: nn.Embedding(20, 8)}


def test_layers_for_other_modules_are_made_and_stored() -> None:
    """Each layer for convolutions and embeddings is what its config puts there, and a file has its tensors' names."""
    made = set()
    for name in METHODS:
        for place in PLACES:
            where = {"targets": (place,)} | ({"feedforward_targets": ()} if name == "ia3" else {})
            config = replace(CASES[name].config, **where)
            try:
                layer = inject(nn.ModuleDict({place: PLACES[place]()}), config)[place]
            except TypeError:  # refused: this method is not for such a module
                continue
            trained = {key for key, p in layer.named_parameters() if p.requires_grad and "base_layer." not in key}
            assert trained and trained <= layout_of(config).tensors.keys(), (name, place)
            made.add(type(layer).__name__)
    known = {one for method in METHODS.values() for names in method.pages.values() for one in names}
    assert made == {one for one in known if one.endswith(("Conv", "Embedding"))}


def test_a_layout_has_a_word_for_each_setting_and_tensor() -> None:
    """Nothing that a config says, or that trains, is left out of a file in silence."""
    for name, case in CASES.items():
        layout = layout_of(case.config)
        said = {field.name for field in fields(case.config)} - {"exclude", "layers", "layers_pattern"}
        told = {*layout.settings, *layout.to_settings(case.config)}
        unsaid = said - told - {"modules_to_save", "trainable_tokens", "rank_pattern", "alpha_pattern", "targets"}
        assert unsaid <= TOLD_OTHERWISE.get(name, set()), name
        for _, layer in named_adapters(inject(contract.network(name, "dense"), contract.METHODS[name])):
            trained = {key for key, p in layer.named_parameters() if p.requires_grad and "base_layer." not in key}
            assert trained <= layout.tensors.keys(), name


TOLD_OTHERWISE = {"loftq": {"codebook", "block_size", "double", "iterations"}}
