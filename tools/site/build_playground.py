"""The page that trains: `python -m tools.site.build_playground [--out FOLDER]`.

It writes `playground.html` with what it loads in a folder beside it, and `playground-single.html`, the same page with
all of that inside, which works from a file. All comes from this checkout: nothing is asked of the network.
"""

import argparse
import base64
import gzip
import json
import re
from functools import cache
from html import escape
from pathlib import Path
from typing import Any

from peft_lessons import data
from peft_lessons.models import load_tiny_gpt, tiny_gpt
from peft_lessons.quantization import normal_codebook

HERE = Path(__file__).parent / "playground"
WIDGETS = Path(tiny_gpt.__file__).parents[2] / "classroom/widgets"
SHEETS = [*(WIDGETS / f"{name}.css" for name in ("theme", "parts", "sliders")), HERE / "playground.css"]
CONTROLS = [WIDGETS / "parts.js", WIDGETS / "sliders.js"]
BITS = (8, 4, 3, 2)
HELD_OUT_LETTERS = 8_000  # more than the tokens that the page measures on
LEARNT_LETTERS = 400_000  # more than 400 steps see
# In the order in which one would read them.
PAGES = (
    "linear",
    "decoder",
    "attention",
    "rotary",
    "loss",
    "adamw",
    "training",
    "run",
    "model",
    "quantize",
    "spectrum",
    "generate",
    "memory",
)
REST = ("random.js", "safetensors.js", "adapter_files.js", "multiply.ts", "exponential.ts")
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
            return f"const {match[1]} = {_scope((path.parent / match[2]).resolve())};"

        body = re.sub(r'^import (\{[\w$, ]+\}) from "(.*)";$', imported, text, flags=re.MULTILINE)
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


def assets() -> dict[str, bytes]:
    """What the page loads, by name, gzipped."""
    found = {
        "worker.js": bundle(HERE / "worker.js").encode(),
        **{name: (HERE / "engine" / name).read_bytes() for name in CODES},
        "weights": (tiny_gpt.FOLDER / "model.safetensors").read_bytes(),
        "course": json.dumps(course(), ensure_ascii=False).encode(),
    }
    return {name: gzip.compress(content, mtime=0) for name, content in found.items()}


def page(places: dict[str, str], home: str) -> str:
    """The page, which finds its assets at `places`."""
    script = "\n".join([*(path.read_text(encoding="utf-8") for path in CONTROLS), bundle(HERE / "page/page.js")])
    parts = {
        "STYLE": "\n".join(path.read_text(encoding="utf-8") for path in SHEETS),
        "SCRIPT": f"{{\n{script}\n}}",
        "ASSETS": json.dumps(places),
        "SOURCES": "\n".join(map(_source, [*(f"{name}.js" for name in PAGES), *REST])),
        "HOME": home,
    }
    text = (HERE / "playground.html").read_text(encoding="utf-8")
    return re.sub(r"\b(STYLE|SCRIPT|ASSETS|SOURCES|HOME)\b", lambda match: parts[match[0]], text)


def _source(name: str) -> str:
    text = (HERE / "engine" / name).read_text(encoding="utf-8")
    (about,) = re.findall(r"\A// (.+?)(?: \(|[.:,])", text, re.DOTALL)  # how its first sentence begins
    words = escape(re.sub(r"\s+(?://\s*)?", " ", about))
    return f'<details><summary>{name}: {words}</summary><pre tabindex="0">{escape(text)}</pre></details>'


def build(out: Path) -> None:
    """Write both pages and the folder of assets into `out`, which exists."""
    content = assets()
    folder = out / "playground"
    folder.mkdir(exist_ok=True)
    for name, compressed in content.items():
        (folder / f"{name}.bin").write_bytes(compressed)  # some servers unpack what is called .gz
    home = '<p><a href="index.html">PEFT Lessons</a></p>'
    beside = {name: f"playground/{name}.bin" for name in content}
    (out / "playground.html").write_text(page(beside, home), encoding="utf-8")
    inside = {name: f"data:;base64,{base64.b64encode(compressed).decode()}" for name, compressed in content.items()}
    (out / "playground-single.html").write_text(page(inside, ""), encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("build/site"), help="folder; build/site if not said")
    out = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    build(out)
    for path in [*out.glob("playground*.html"), *(out / "playground").iterdir()]:
        print(f"{path}: {path.stat().st_size / 1e3:,.0f} kB")


if __name__ == "__main__":
    main()
