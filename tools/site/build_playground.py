"""The pages that train: `python -m tools.site.build_playground [--out FOLDER]`.

In `playground.html` a language model learns slang, in `handwriting.html` a model that draws letters learns a hand. What
each loads lies in a folder beside it, and `playground-single.html` and `handwriting-single.html` are the same pages
with all of that inside, which work from a file. All comes from this checkout: nothing is asked of the network.
"""

import argparse
import base64
import gzip
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from html import escape
from pathlib import Path
from typing import Any

from peft_lessons import data
from peft_lessons.models import LETTERS, letters, load_tiny_gpt, tiny_gpt
from peft_lessons.quantization import normal_codebook
from peft_lessons.tasks import TRAINED_LETTERS

HERE = Path(__file__).parent / "playground"
WIDGETS = Path(tiny_gpt.__file__).parents[2] / "classroom/widgets"
BITS = (8, 4, 3, 2)
HELD_OUT_LETTERS = 8_000  # more than the tokens that the page measures on
LEARNT_LETTERS = 400_000  # more than 400 steps see
# Of the page that learns a hand: as good on letters that it has not seen as 150 steps of 32, and done in a minute.
HAND = {"batch": 16, "steps": 80, "rate": 0.004}
CODES = ("simd-fused.wasm", "simd.wasm")  # both come from simd.ts; the page takes the first that its browser knows


def bundle(entry: Path) -> str:
    """One script of the module `entry` and all that it imports, each in a scope of its own, in the order of their need.

    Raises:
        ValueError: for an import or export of a form that it does not know.
    """
    scopes: dict[Path, str] = {}

    def add(path: Path) -> None:
        if path in scopes:
            return
        text = path.read_text(encoding="utf-8")
        for name in re.findall(r'^import .* from "(.*)";$', text, re.MULTILINE):
            add((path.parent / name).resolve())

        def imported(match: re.Match[str]) -> str:
            return f"const {match[1] or match[2]} = {_scope((path.parent / match[3]).resolve())};"

        body = re.sub(r'^import (?:\* as (\w+)|(\{[\w$, ]+\})) from "(.*)";$', imported, text, flags=re.MULTILINE)
        listed = re.findall(r"^export \{([^}]*)\};?$", body, re.MULTILINE)  # a bundler's way: one list at the end
        body = re.sub(r"^export \{[^}]*\};?$", "", body, flags=re.MULTILINE)
        names = [_as_property(name) for names in listed for name in names.split(",") if name.strip()]
        names += re.findall(r"^export (?:async )?(?:function\*?|class|const) (\w+)", body, re.MULTILINE)
        body = re.sub(r"^export (?=async |function|class|const \w)", "", body, flags=re.MULTILINE)
        if unknown := re.findall(r"^(?:import|export) .*", body, re.MULTILINE):
            raise ValueError(f"{path.name}: {unknown[0][:80]} is of a form that cannot be bundled")
        scopes[path] = f"const {_scope(path)} = (() => {{\n{body}\nreturn {{ {', '.join(names)} }};\n}})();\n"

    add(entry.resolve())
    return '"use strict";\n' + "\n".join(scopes.values())


def _scope(path: Path) -> str:
    return f"{path.stem.replace('-', '_')}_page"


def _as_property(name: str) -> str:
    """`a as b` in a list of exports is `b: a` in an object."""
    inner, _, outer = name.strip().partition(" as ")
    return f"{outer}: {inner}" if outer else inner


def texts() -> dict[str, Any]:
    """What can be learnt and what is held out, as the lessons split it, cut to what the page uses."""
    jargon = ["\n".join(entry["text"] for entry in data.jargon()[start::10]) for start in range(10)]
    devils = [entry["text"] for entry in data.devils_dictionary()]
    tasks = {
        "jargon": ("\n".join(jargon[1:]), jargon[0]),
        "devils": ("\n".join(text for i, text in enumerate(devils) if i % 9), "\n".join(devils[::9])),
    }
    found: dict[str, Any] = {
        name: {"learn": learn[:LEARNT_LETTERS], "held_out": _middle(held_out)}
        for name, (learn, held_out) in tasks.items()
    }
    return found | {"austen": _middle(data.austen()[data.AUSTEN_HELD_OUT])}


def _middle(text: str) -> str:
    """Some paragraphs from the middle: a beginning has lists, titles and what else is not like the rest."""
    return text[text.index("\n", len(text) // 2) + 1 :][:HELD_OUT_LETTERS]


@cache
def course() -> dict[str, Any]:
    """What the worker needs beside weights and code, as JSON; its texts are tokens, which cost a visitor no time."""
    encode = load_tiny_gpt()[1].encode
    config, vocabulary = (
        json.loads((tiny_gpt.FOLDER / name).read_text(encoding="utf-8")) for name in ("config.json", "tokenizer.json")
    )
    return {
        "config": config,
        "vocabulary": vocabulary,
        "levels": {bits: normal_codebook(bits).levels for bits in BITS},
        "texts": {
            name: encode(text) if isinstance(text, str) else {part: encode(letters) for part, letters in text.items()}
            for name, text in texts().items()
        },
    }


@cache
def letters_course() -> dict[str, Any]:
    """What the page needs beside weights and code: settings, letters, and typefaces that the model has not seen."""
    config = json.loads((letters.FOLDER / "config.json").read_text(encoding="utf-8"))
    typefaces = [
        {"name": row["name"], "kind": row["kind"], "letters": {one: row["letters"][one] for one in TRAINED_LETTERS}}
        for row in data.typefaces()
    ]
    return {
        "config": config,
        "settings": HAND,
        "letters": LETTERS,
        "trained": TRAINED_LETTERS,
        "typefaces": typefaces,
    }


@dataclass(frozen=True)
class Page:
    """A page that trains: `name`.html, and what goes into it."""

    name: str
    worker: str
    script: str
    sheets: tuple[str, ...]  # of the widgets
    controls: tuple[str, ...]  # scripts of the widgets
    sources: tuple[str, ...]  # of the engine, in the order in which one would read them
    weights: Path
    course: Callable[[], dict[str, Any]]

    def assets(self) -> dict[str, bytes]:
        """What the page loads, by name, gzipped."""
        found = {
            "worker.js": bundle(HERE / self.worker).encode(),
            **{name: (HERE / "engine" / name).read_bytes() for name in CODES},
            "weights": self.weights.read_bytes(),
            "course": json.dumps(self.course(), ensure_ascii=False).encode(),
        }
        return {name: gzip.compress(content, mtime=0) for name, content in found.items()}

    def text(self, places: dict[str, str], home: str) -> str:
        """The page, which finds its assets at `places`."""
        own = [HERE / f"{name}.css" for name in dict.fromkeys(("playground", self.name))]
        sheets = [*(WIDGETS / f"{name}.css" for name in self.sheets), *own]
        controls = [(WIDGETS / f"{name}.js").read_text(encoding="utf-8") for name in self.controls]
        parts = {
            "STYLE": "\n".join(path.read_text(encoding="utf-8") for path in sheets),
            "THEME": (HERE / "page/theme.js").read_text(encoding="utf-8"),
            "SCRIPT": "\n".join([*controls, bundle(HERE / self.script)]),
            "ASSETS": json.dumps(places),
            "SOURCES": "\n".join(map(_source, self.sources)),
            "HOME": home,
        }
        text = (HERE / f"{self.name}.html").read_text(encoding="utf-8")
        return re.sub(rf"\b({'|'.join(parts)})\b", lambda match: parts[match[0]], text)

    def build(self, out: Path) -> None:
        """Write both forms of the page and the folder of its assets into `out`, which exists."""
        content = self.assets()
        folder = out / self.name
        folder.mkdir(exist_ok=True)
        for name, compressed in content.items():
            (folder / f"{name}.bin").write_bytes(compressed)  # some servers unpack what is called .gz
        home = '<p><a href="index.html">PEFT Lessons</a></p>'
        beside = {name: f"{self.name}/{name}.bin" for name in content}
        (out / f"{self.name}.html").write_text(self.text(beside, home), encoding="utf-8")
        inside = {name: f"data:;base64,{base64.b64encode(compressed).decode()}" for name, compressed in content.items()}
        (out / f"{self.name}-single.html").write_text(self.text(inside, ""), encoding="utf-8")


def _source(name: str) -> str:
    text = (HERE / "engine" / name).read_text(encoding="utf-8")
    (about,) = re.findall(r"\A// (.+?)(?: \(|[.:,])", text, re.DOTALL)  # how its first sentence begins
    words = escape(re.sub(r"\s+(?://\s*)?", " ", about))
    return f'<details><summary>{name}: {words}</summary><pre tabindex="0">{escape(text)}</pre></details>'


ROOTS = ("random.js", "safetensors.js", "adapter_files.js", "multiply.ts", "exponential.ts")
PAGES = (
    Page(
        name="playground",
        worker="worker.js",
        script="page/page.js",
        sheets=("theme", "parts", "sliders"),
        controls=("parts", "sliders"),
        sources=(
            "linear.js",
            "decoder.js",
            "attention.js",
            "rotary.js",
            "loss.js",
            "adamw.js",
            "training.js",
            "run.js",
            "model.js",
            "quantize.js",
            "spectrum.js",
            "generate.js",
            "memory.js",
            "operations.js",
            "fastest.js",
            "graphics.js",
            "kernels.js",
            *ROOTS,
        ),
        weights=tiny_gpt.FOLDER / "model.safetensors",
        course=course,
    ),
    Page(
        name="handwriting",
        worker="handwriting_worker.js",
        script="page/handwriting.js",
        sheets=("theme", "parts", "hand"),
        controls=("parts", "ink", "hand"),
        sources=(
            "linear.js",
            "diffusion.js",
            "attention.js",
            "flow.js",
            "adamw.js",
            "training.js",
            "drawing_run.js",
            "model.js",
            "memory.js",
            "operations.js",
            *ROOTS,
            "gelu.ts",
        ),
        weights=letters.FOLDER / "model.safetensors",
        course=letters_course,
    ),
)


def build(out: Path) -> None:
    """Write all of them into `out`, which exists."""
    for page in PAGES:
        page.build(out)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("build/site"), help="folder; build/site if not said")
    out = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    build(out)
    for path in (path for page in PAGES for path in [*out.glob(f"{page.name}*.html"), *(out / page.name).iterdir()]):
        print(f"{path}: {path.stat().st_size / 1e3:,.0f} kB")


if __name__ == "__main__":
    main()
