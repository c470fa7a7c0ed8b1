"""python -m benchmarks [SECTION …]: all sections, into docs/benchmarks.md and its figure; or those named, printed."""

import sys
from importlib import metadata
from pathlib import Path

from playwright.sync_api import sync_playwright

from benchmarks.measure import in_new_process
from benchmarks.report import draw, measured, page
from tools.browser import lab

SECTIONS = ("lora", "nf4", "training", "generation", "injection", "pages")
PEERS = ("transformers", "peft", "loralib", "bitsandbytes", "xllamacpp")
DOCS = Path(__file__).resolve().parents[1] / "docs"


def main(names: list[str]) -> None:
    if unknown := [name for name in names if name not in SECTIONS]:
        sys.exit(f"no section is called {', '.join(unknown)}; there are {', '.join(SECTIONS)}")
    if "pages" in (names or SECTIONS):
        with sync_playwright() as playwright, lab.chromium(playwright):
            pass  # where there is no Chromium it is said now, not after the other sections
    sections = []
    for name in names or SECTIONS:
        sections.append(in_new_process(measured, name))
        print(sections[-1].markdown(), end="\n\n", flush=True)
    if not names:
        versions = ", ".join(f"{peer} {metadata.version(peer)}" for peer in PEERS)
        (DOCS / "benchmarks.md").write_text(page(sections, versions), encoding="utf-8")
        draw(sections, DOCS / "benchmarks.svg")


if __name__ == "__main__":  # the processes that it starts import this file again
    main(sys.argv[1:])
