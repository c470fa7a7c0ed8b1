"""`help()` teaches: every public name has an example that runs, every field and every error is explained."""

import ast
import dataclasses
import doctest
import inspect
import re
import textwrap
import warnings
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
import torch

import peft_lessons
from peft_lessons import accounting, models, quantization, training
from peft_lessons.classroom.output.show import source_of
from peft_lessons.explained import explain_fields

Public = type | Callable[..., Any]


def exported(module: ModuleType) -> list[str]:
    own = [name for name, value in vars(module).items() if getattr(value, "__module__", "") == module.__name__]
    return getattr(module, "__all__", [name for name in own if not name.startswith("_")])


def public() -> dict[str, Public]:
    """The functions and classes that a user of the package calls, each once, by their full names."""
    found: dict[str, Public] = {}
    for module in (peft_lessons, training, models, quantization, accounting):
        for name in exported(module):
            value = getattr(module, name)
            is_one = inspect.isclass(value) or inspect.isfunction(inspect.unwrap(value))
            if is_one and value not in found.values():
                found[f"{module.__name__}.{name}"] = value
    return found


PUBLIC = public()
CONFIGS = {name: value for name, value in PUBLIC.items() if name.endswith("Config")}


def section(doc: str | None, title: str) -> str:
    """The lines of a section of a docstring, without their common indent; "" when it has none."""
    found = re.search(rf"^{title}:\n((?: .*\n|\n)*(?: .*)?)", inspect.cleandoc(doc or ""), re.MULTILINE)
    return textwrap.dedent(found[1]) if found else ""


def raised_in(value: Public) -> set[str]:
    """The errors that a function raises itself, or a class when it is made."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(value))).body[0]
    makers = ("__init__", "__post_init__")
    functions = [one for one in tree.body if isinstance(one, ast.FunctionDef) and one.name in makers]
    raises = [node for one in (functions if inspect.isclass(value) else [tree]) for node in ast.walk(one)]
    names = [node.exc.func.id for node in raises if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call)
             and isinstance(node.exc.func, ast.Name)]  # fmt: skip
    return set(names)


def test_what_is_public_is_found() -> None:
    assert {"peft_lessons.inject", "peft_lessons.training.train", "peft_lessons.models.Decoder"} <= PUBLIC.keys()
    assert {"peft_lessons.LoRAConfig", "peft_lessons.models.DecoderConfig"} <= CONFIGS.keys()


@pytest.mark.parametrize("name", PUBLIC)
def test_a_name_has_an_example_that_runs(name: str) -> None:
    value = PUBLIC[name]
    examples = section(value.__doc__, "Examples")
    assert ">>> " in examples, f"{name} has no example: its docstring needs a section Examples with lines of >>>"
    test = doctest.DocTestParser().get_doctest(examples, {}, name, None, None)
    said: list[str] = []
    torch.manual_seed(0)
    with warnings.catch_warnings(action="error"):
        result = doctest.DocTestRunner(verbose=False).run(test, out=said.append)
    assert not result.failed, "".join(said)
    assert name.rpartition(".")[2] in examples


@pytest.mark.parametrize("name", CONFIGS)
def test_a_config_explains_each_field(name: str) -> None:
    described = dict(re.findall(r"^(\w+): (.*(?:\n .*)*)", section(CONFIGS[name].__doc__, "Attributes"), re.MULTILINE))
    fields = {field.name: field for field in dataclasses.fields(CONFIGS[name])}
    assert [field for field in fields if field not in described] == [], f"fields of {name} that are not explained"
    assert [field for field in described if field not in fields] == [], f"{name} has no such fields"
    if issubclass(CONFIGS[name], peft_lessons.AdapterConfig) and CONFIGS[name] is not peft_lessons.SeveralConfig:
        without = [one for one, field in fields.items() if field.default is dataclasses.MISSING]
        assert without == [one for one, text in described.items() if "Default:" not in text]


@pytest.mark.parametrize("name", PUBLIC)
def test_errors_stand_in_a_section(name: str) -> None:
    doc = inspect.cleandoc(PUBLIC[name].__doc__ or "")
    assert not re.search(r"\bRaises\b(?!:$)", doc, re.MULTILINE), f"{name} says in prose what it raises"
    named = set(re.findall(r"^(\w+): \S", section(doc, "Raises"), re.MULTILINE))
    assert raised_in(PUBLIC[name]) - named == set(), f"errors that {name} raises and does not name"
    titles = re.findall(r"^(Attributes|Raises|Examples):$", doc, re.MULTILINE)
    assert titles == sorted(titles, key=["Attributes", "Raises", "Examples"].index)


def test_fields_are_explained_once_and_inherited() -> None:
    @dataclasses.dataclass
    class First:
        """One.

        Attributes:
            size: How large,
                in bytes.
        """

        size: int = 3

    class Second(First):
        """Two.

        Attributes:
            name: What it is called.

        Raises:
            ValueError: never.
        """

        name: str
        size: int = 4

    explain_fields(Second)
    assert Second.__doc__ == (
        "Two.\n\nAttributes:\n    name: What it is called.\n    size: How large, in bytes. Default: 4.\n\n"
        "Raises:\n    ValueError: never.\n"
    )


def test_lessons_show_no_examples() -> None:
    shown = source_of(peft_lessons.LoRALinear)
    assert ">>>" in inspect.getsource(peft_lessons.LoRALinear)
    assert ">>>" not in shown.code and shown.code.splitlines()[1].endswith('in x\'s dtype."""')
    assert "in_features" in shown.code and compile(shown.code, "shown", "exec")
