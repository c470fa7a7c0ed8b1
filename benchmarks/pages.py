"""The pages that train, in Chromium: a step beside torch's, how fast text is, how long a visitor waits."""

import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from playwright.sync_api import Browser, sync_playwright

from benchmarks.measure import torch_threads
from benchmarks.report import Section, number
from peft_lessons.adapters import inject
from peft_lessons.methods.lora import LoRAConfig
from peft_lessons.models import flow_batches, flow_matching_loss, load_letters, load_tiny_gpt
from peft_lessons.tasks import LETTER_LORA, letters_of
from peft_lessons.training import train, windows
from tools.browser import lab
from tools.browser.pages import first_visit, served
from tools.site import build_playground, build_site

STEPS = 30
TYPEFACE, KIND = "Rufscript", "handwriting"
VISITED = ("index.html", "lessons/03_lora_from_scratch.html", "playground.html", "handwriting.html")
# What a page's worker says, and when, in milliseconds since the button was pressed.
LISTEN = """{
  const Told = window.Worker;
  window.Worker = class extends Told {
    constructor(...address) {
      super(...address);
      this.addEventListener('message', ({ data: { what, tokens, ms } }) => {
        window.heard?.push({ what, tokens, ms, at: performance.now() - window.began });
      });
    }
  };
}"""
PRESS = "(button) => { window.heard = []; window.began = performance.now(); button.click(); }"
Heard = list[dict[str, Any]]


def section(rounds: int = 3, visits: int = 7) -> Section:
    with (
        tempfile.TemporaryDirectory() as folder,
        sync_playwright() as playwright,
        lab.chromium(playwright) as browser,
    ):
        build_site.build(Path(folder) / "site")
        with served(Path(folder) / "site") as address:
            slang = [(slang_in_page(browser, address), slang_in_torch()) for _ in range(rounds)]
            letters = [(letters_in_page(browser, address), letters_in_torch()) for _ in range(rounds)]
            first = {path: first_seen(browser, f"{address}/{path}", visits) for path in VISITED}
    rows = [
        step_of("playground", "8 × 64 tokens, rank 4", slang),
        waited("playground", "from Start to the first step", [heard_at(heard, "step") for heard, _ in slang]),
        (
            "playground",
            "text, tokens/s",
            number(statistics.median(tokens_per_second(heard) for heard, _ in slang), 0),
            "",
            "",
        ),
        step_of("handwriting", "16 letters, rank 8", letters),
        waited("handwriting", "until letters are drawn anew", [heard_at(heard, "letters") for heard, _ in letters]),
        waited("handwriting", "until all are learnt and drawn", [heard_at(heard, "drawn") for heard, _ in letters]),
    ]
    for path, seen in first.items():
        rows += [waited(path, what, seconds) for what, seconds in seen.items()]
    return Section(
        title="The pages that train",
        text=f"In Chromium, medians of {rounds} runs that take turns with torch, by the wall clock; at the end of "
        f"{visits} first visits at 1.6 Mbit/s and 150 ms to an answer, on a processor slowed to a quarter. "
        f"{build_playground.HAND['steps']} steps learn a hand.",
        columns=("page", "what", "there", "torch, one thread", "there / torch"),
        rows=tuple(rows),
        ratios=tuple((f"{row[0]}, {row[1]}: time, torch = 1", float(row[4])) for row in rows if row[4]),
    )


def step_of(page: str, what: str, runs: list[tuple[Heard, float]]) -> tuple[str, ...]:
    here = [median_gap([one["at"] / 1000 for one in heard if one["what"] == "step"]) for heard, _ in runs]
    theirs = [peer for _, peer in runs]
    ratio = statistics.median(mine / peer for mine, peer in zip(here, theirs, strict=True))
    cells = (number(1000 * statistics.median(seconds), 0, " ms") for seconds in (here, theirs))
    return page, f"a step of {what}", *cells, number(ratio)


def waited(page: str, what: str, seconds: list[float]) -> tuple[str, ...]:
    return page, what, number(statistics.median(seconds), 2, " s"), "", ""


def median_gap(moments: list[float]) -> float:
    return statistics.median(after - before for before, after in pairwise(moments))


def heard_at(heard: Heard, what: str) -> float:
    """Seconds until the worker first says so; `drawn` is said before it trains, too."""
    start = heard_at(heard, "done") if what == "drawn" else 0
    return next(one["at"] / 1000 for one in heard if one["what"] == what and one["at"] / 1000 >= start)


def tokens_per_second(heard: Heard) -> float:
    (*_, text) = (one for one in heard if one["what"] == "text")
    return 1000 * text["tokens"] / text["ms"]


# ------------------------------------------------------------------------------------------------------ in the page


def slang_in_page(browser: Browser, address: str) -> Heard:
    return heard_from(browser, f"{address}/playground.html#steps={STEPS}", "#start", "Done")


def letters_in_page(browser: Browser, address: str) -> Heard:
    return heard_from(browser, f"{address}/handwriting.html", "#train", "Done", f"{TYPEFACE} ({KIND})")


def heard_from(browser: Browser, address: str, button: str, end: str, typeface: str = "") -> Heard:
    """What the worker of a page that trains says from the moment that the button is pressed."""
    context = lab.new_context(browser, 1280, 720, service_workers="block")
    context.set_default_timeout(300_000)
    page = context.new_page()
    page.add_init_script(LISTEN)
    page.goto(address)
    page.locator("#status", has_text="Ready.").wait_for()
    if typeface:
        page.get_by_label("A typeface").check(force=True)
        page.locator("#typeface").select_option(label=typeface)
    page.locator(button).evaluate(PRESS)
    page.locator("#status", has_text=end).wait_for()
    page.wait_for_timeout(2000)  # the text after training is written then
    heard: Heard = page.evaluate("window.heard")
    context.close()
    return heard


def first_seen(browser: Browser, address: str, visits: int) -> dict[str, list[float]]:
    """Seconds until the first words and the first widget of a page, for each of so many visitors."""
    found: dict[str, list[float]] = {"until the first words": [], "until the first widget": []}
    for _ in range(visits):
        context = lab.new_context(browser, 1280, 720, service_workers="block")
        for seconds, (waited_for, *_) in zip(found.values(), first_visit(context, address), strict=True):
            seconds.append(waited_for / 1000)
        context.close()
    return found


# --------------------------------------------------------------------------------------------------------- in torch


def slang_in_torch() -> float:
    model, tokenizer = load_tiny_gpt()
    inject(model, LoRAConfig(rank=4, alpha=8))
    ids = tokenizer.encode(build_playground.texts()["jargon"]["learn"])
    return step_in_torch(
        windows(ids, batch_size=8, length=64, seed=0),
        lambda timed: train(model, timed, steps=STEPS, learning_rate=0.01, bar=iter),
    )


def letters_in_torch() -> float:
    model = load_letters()
    inject(model, LETTER_LORA)
    batches = flow_batches(*letters_of(TYPEFACE).train, batch_size=16, seed=0, shift=1)
    return step_in_torch(
        batches,
        lambda timed: train(model, timed, steps=STEPS, learning_rate=0.004, loss=flow_matching_loss, bar=iter),
    )


def step_in_torch(batches: Iterator[Any], training: Callable[[Iterator[Any]], object]) -> float:
    """The median seconds of a step of one thread, from one batch to the next."""
    starts: list[float] = []

    def timed() -> Iterator[Any]:
        for batch in batches:
            starts.append(time.perf_counter())
            yield batch

    torch.manual_seed(0)
    with torch_threads(1):
        training(timed())
    return median_gap(starts)
