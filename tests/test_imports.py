"""Dependencies run one way, each is declared, and importing the package loads next to nothing beyond torch."""

import ast
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "peft_lessons"
# A module may import from its own layer and from those before it.
LAYERS = [
    {"adapters", "bases", "biases", "checks", "convolution", "course", "embedding", "exact", "experts", "explained"}
    | {"files", "interrupts", "linear", "llama_server", "low_rank", "memory", "quantization", "ranks", "targets"},
    {"models", "data"},
    {"methods"},
    {"checkpoints", "training", "training_state", "multi_adapter", "accounting", "tasks", "distributed"}
    | {"lettering", "preference", "serving", "suspicions"},
    {"experiments"},
    {"classroom", "lessons"},
    {"doctor", "jupyter"},
    {"cli", "__main__"},
]
NOTEBOOK_LIBRARIES = {"IPython", "ipywidgets", "anywidget", "matplotlib"}
MODULES = sorted(PACKAGE.rglob("*.py"))


def name_of(path: Path) -> str:
    """peft_lessons/models/gguf.py → peft_lessons.models.gguf"""
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def imported(source: str, name: str, is_package: bool) -> Iterator[str]:
    """The absolute names of all that a module imports, inside functions too."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = name.split(".")[: len(name.split(".")) - node.level + is_package] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            yield from (f"{module}.{alias.name}" for alias in node.names)


def layer(name: str) -> int | None:
    """The layer of a module of the package; None for the package itself, which only gathers names."""
    part = name.split(".")[1] if "." in name else ""
    (found,) = [number for number, parts in enumerate(LAYERS) if part in parts] or [None]
    return found


def violations(source: str, name: str, is_package: bool = False) -> list[str]:
    """What `name` may not import, in words."""
    found, own = [], layer(name)
    for target in imported(source, name, is_package):
        top = target.split(".")[0]
        if top in NOTEBOOK_LIBRARIES and not name.startswith("peft_lessons.classroom"):
            found.append(f"{name} imports {top}, which only the classroom may")
        if top == PACKAGE.name:
            theirs = layer(target)
            if own is None and theirs is not None and LAYERS[theirs] & {"classroom", "doctor"}:
                found.append(f"{name} imports {target}, which only notebooks and the command line may")
            if own is not None and theirs is not None and theirs > own:
                found.append(f"{name} imports {target} of a later layer")
    return found


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_dependencies_run_one_way(path):
    name = name_of(path)
    if path != PACKAGE / "__init__.py":
        assert layer(name) is not None, f"{name} belongs to no layer: say in LAYERS to which"
    assert not violations(path.read_text(encoding="utf-8"), name, path.name == "__init__.py")


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("peft_lessons.adapters", "from peft_lessons.methods.lora import LoRAConfig"),
        ("peft_lessons.adapters", "from .methods import lora"),
        ("peft_lessons.methods.lora", "from .. import training"),
        ("peft_lessons.models.hub", "def load():\n    from peft_lessons import classroom"),
        ("peft_lessons.training", "import matplotlib.pyplot as plt"),
        ("peft_lessons", "from peft_lessons.classroom import quiz"),
    ],
)
def test_the_rule_sees(name, source):
    assert len(violations(source, name, is_package=name == "peft_lessons")) == 1


def test_every_import_is_a_declared_dependency():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    lines = [*project["dependencies"], *project["optional-dependencies"]["serve"]]
    declared = {canonicalize_name(Requirement(line).name) for line in lines}
    distributions = metadata.packages_distributions()
    undeclared = {}
    for path in MODULES:
        for target in imported(path.read_text(encoding="utf-8"), name_of(path), path.name == "__init__.py"):
            top = target.split(".")[0]
            if top in sys.stdlib_module_names or top == PACKAGE.name:
                continue
            if not {canonicalize_name(name) for name in distributions.get(top, [])} & declared:
                undeclared[top] = name_of(path)
    assert not undeclared


LOADED = """
import sys
import torch
before = set(sys.modules)
import peft_lessons
for name in peft_lessons.__all__:
    getattr(peft_lessons, name)
print(*{name.split(".")[0] for name in set(sys.modules) - before} - set(sys.stdlib_module_names))
"""


@pytest.mark.slow
def test_importing_loads_torch_and_little_else():
    """All exported names included: what is heavy, as matplotlib or transformers, is imported where it is needed."""
    done = subprocess.run([sys.executable, "-c", LOADED], check=True, capture_output=True, text=True)
    assert set(done.stdout.split()) == {"peft_lessons", "safetensors"}
