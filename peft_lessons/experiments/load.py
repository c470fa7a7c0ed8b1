"""Two hundred requests to one small machine, for a dictionary entry, a record, or the plain base in turn.

by: "llama.cpp", through the server of `peft-lessons serve`, or "notebook", the course's own model, one at a time.
clients: each sends its next request when it has its answer. adapters: "mixed", each request its own; "one", all the
same; "none". The questions are the same in all cases. waits: seconds of each request, from sent to answered. tokens:
of all answers, at most 24 each. whole: seconds from the first request to the last answer.
"""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch

from peft_lessons import data
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
    ]


def requests(adapters: str, count: int = REQUESTS) -> list[Request]:
    """Return the first `count` requests, in their order."""
    words = [entry["word"].lower() for entry in data.devils_dictionary()]
    countries = data.countries()

    def question(i: int) -> Request:
        kind = i % 3
        asked = [
            QUESTION.format(word=words[i]),
            country_question(countries[i % len(countries)], data.COUNTRY_TEMPLATES[0]),
            f"Tell me something about the number {i}.",
        ][kind]
        return asked, {"mixed": ["devil", "json", None][kind], "one": "devil", "none": None}[adapters]

    return [question(i) for i in range(count)]


def measure(by: str, clients: int, adapters: str) -> dict[str, Any]:
    wanted = requests(adapters)
    if by == "notebook":
        return _timed(_notebook(), wanted, clients)
    with serving(ADAPTERS) as service:

        def one(question: str, adapter: str | None) -> int:
            scales = {adapter: 1.0} if adapter else {}
            answered = ask(service, body(question, lora=service.lora(scales)) | {"max_tokens": NEW})
            return int(answered["usage"]["completion_tokens"])

        return _timed(one, wanted, clients)


def _notebook() -> Callable[[str, str | None], int]:
    model, tokenizer = load_smollm2()
    load_adapters(model, ADAPTERS)

    def one(question: str, adapter: str | None) -> int:
        prompt = torch.tensor([prompt_ids(tokenizer, question)])
        with using(model, adapter):
            return len(generate(model, prompt, NEW, eos_id=tokenizer.eos_id)[0])

    return one


def _timed(one: Callable[[str, str | None], int], wanted: list[Request], clients: int) -> dict[str, Any]:
    """Let this many clients ask; the first request, which warms everything up, is asked once more before."""
    one(*wanted[0])

    def waited(request: Request) -> tuple[float, int]:
        started = time.perf_counter()
        tokens = one(*request)
        return time.perf_counter() - started, tokens

    started = time.perf_counter()
    with ThreadPoolExecutor(clients) as pool:
        answered = list(pool.map(waited, wanted))
    whole = time.perf_counter() - started
    return {
        "waits": [seconds for seconds, _ in answered],
        "tokens": sum(tokens for _, tokens in answered),
        "whole": whole,
        "seconds": whole,
    }
