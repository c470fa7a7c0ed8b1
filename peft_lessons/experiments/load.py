"""Two hundred requests to one small machine, for a dictionary entry, a record, or the plain base in turn.

by: "llama.cpp", through the server of `peft-lessons serve`, or "notebook", the course's own model, one at a time.
clients: each sends its next request when it has its answer. adapters: "mixed", each request its own; "one", all the
same; "none"; "merged", the one merged into the model, which is then in Q8_0. The questions are the same in all cases,
and every answer has 24 tokens, whether or not it would have ended. waits: seconds of each request, from sent to
answered. whole: seconds from the first request to the last answer.
"""

import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch

from peft_lessons import data
from peft_lessons.checkpoints.merged import export_merged_gguf
from peft_lessons.experiments.served import ADAPTERS, ask, body
from peft_lessons.models import generate, load_smollm2
from peft_lessons.models.chat import prompt_ids
from peft_lessons.multi_adapter import load_adapters, using
from peft_lessons.serving import serving
from peft_lessons.tasks import QUESTION, country_question

REQUESTS, CLIENTS, NEW = 200, 8, 24

Request = tuple[str, str | None]  # a question, and the adapter that it wants


def cases() -> list[dict[str, Any]]:
    return [
        {"by": "notebook", "clients": 1, "adapters": "mixed"},
        {"by": "llama.cpp", "clients": 1, "adapters": "mixed"},
        {"by": "llama.cpp", "clients": 1, "adapters": "none"},
        {"by": "llama.cpp", "clients": CLIENTS, "adapters": "mixed"},
        {"by": "llama.cpp", "clients": CLIENTS, "adapters": "one"},
        {"by": "llama.cpp", "clients": CLIENTS, "adapters": "none"},
        {"by": "llama.cpp", "clients": CLIENTS, "adapters": "merged"},
    ]


def requests(adapters: str) -> list[Request]:
    """Return all requests, in their order."""
    words = [entry["word"].lower() for entry in data.devils_dictionary()]
    countries = data.countries()

    def question(i: int) -> Request:
        kind = i % 3
        asked = [
            QUESTION.format(word=words[i]),
            country_question(countries[i % len(countries)], data.COUNTRY_TEMPLATES[0]),
            f"Tell me something about the number {i}.",
        ][kind]
        return asked, ["devil", "json", None][kind] if adapters == "mixed" else {"one": "devil"}.get(adapters)

    return [question(i) for i in range(REQUESTS)]


def measure(by: str, clients: int, adapters: str) -> dict[str, Any]:
    wanted = requests(adapters)
    if by == "notebook":
        return _timed(_notebook(), wanted, clients)
    with tempfile.TemporaryDirectory() as folder:
        merged = adapters == "merged"
        model = export_merged_gguf(ADAPTERS["devil"], Path(folder) / "merged.gguf") if merged else None
        with serving({} if merged else ADAPTERS, model) as service:

            def one(question: str, adapter: str | None) -> None:
                lora = {} if merged else {"lora": service.lora({adapter: 1.0} if adapter else {})}
                answered = ask(service, body(question, **lora, max_tokens=NEW, ignore_eos=True))
                if (tokens := answered["usage"]["completion_tokens"]) != NEW:
                    raise RuntimeError(f"an answer has {tokens} tokens, not {NEW}")

            return _timed(one, wanted, clients)


def _notebook() -> Callable[[str, str | None], object]:
    model, tokenizer = load_smollm2()
    load_adapters(model, ADAPTERS)

    def one(question: str, adapter: str | None) -> object:
        prompt = torch.tensor([prompt_ids(tokenizer, question)])
        with using(model, adapter):
            return generate(model, prompt, NEW)

    return one


def _timed(one: Callable[[str, str | None], object], wanted: list[Request], clients: int) -> dict[str, Any]:
    """Let this many clients ask; the first request, which warms everything up, is asked once more before."""
    one(*wanted[0])

    def waited(request: Request) -> float:
        started = time.perf_counter()
        one(*request)
        return time.perf_counter() - started

    started = time.perf_counter()
    with ThreadPoolExecutor(clients) as pool:
        waits = list(pool.map(waited, wanted))
    whole = time.perf_counter() - started
    return {"waits": waits, "whole": whole, "seconds": whole}
