"""SmolLM2 behind llama.cpp's server with two adapters, by name and scale, beside what the notebook's model says.

Each question is asked of the base, of each adapter, and of a sum of both. rows: of the file's queries and keys, in
llama.cpp's order ("neighbours") or as they lie here ("halves"), where each B meets the other rotation. says: the
server's greedy answer; here: the notebook's own. lead: how far, in nats, the notebook's choice led where the two first
part; empty where they never do. The server rounds the inputs of its products to 8 bits, so close calls can go either
way.
"""

import json
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from peft_lessons import data
from peft_lessons.checkpoints.gguf import export_gguf
from peft_lessons.models import Tokenizer, generate, load_smollm2
from peft_lessons.models.chat import prompt_ids
from peft_lessons.models.decoder import Decoder
from peft_lessons.models.gguf import GGUFFile, write_gguf
from peft_lessons.models.gguf_blocks import F32
from peft_lessons.models.llama_gguf import hugging_face_name, rotated_heads, to_halves
from peft_lessons.multi_adapter import load_adapters, using
from peft_lessons.serving import Service, serving
from peft_lessons.tasks import COUNTRY_ADAPTER, DEVILS_ADAPTER, QUESTION, country_question

ADAPTERS = {"devil": DEVILS_ADAPTER, "json": COUNTRY_ADAPTER}
QUESTIONS = {
    "devil": QUESTION.format(word="friend"),
    "json": country_question(data.countries()[9], data.COUNTRY_TEMPLATES[1]),
    "plain": "What is the capital of France?",
}
SCALES: dict[str, dict[str, float]] = {
    "neither": {},
    "devil": {"devil": 1.0},
    "json": {"json": 1.0},
    "both": {"devil": 0.6, "json": 0.4},
}
NEW = 40  # tokens


def cases() -> list[dict[str, Any]]:
    right = [{"asked": asked, "adapters": name, "rows": "neighbours"} for asked in QUESTIONS for name in SCALES]
    wrong = [{"asked": asked, "adapters": asked, "rows": "halves"} for asked in ADAPTERS]
    return right + wrong


def ask(service: Service, body: dict[str, Any]) -> dict[str, Any]:
    """Send one request to the server's chat, and return its answer."""
    request = urllib.request.Request(
        f"{service.address}/v1/chat/completions",
        json.dumps(body).encode(),
        {"Content-Type": "application/json", "Authorization": f"Bearer {service.key}"},
    )
    with urllib.request.urlopen(request, timeout=120) as answer:
        content: dict[str, Any] = json.loads(answer.read())
    return content


def body(question: str, **more: Any) -> dict[str, Any]:
    """What a request for the likeliest answer says."""
    return {"messages": [{"role": "user", "content": question}], "temperature": 0, "max_tokens": NEW} | more


def as_they_lie(adapter: Path, file: Path) -> Path:
    """Write an adapter for llama.cpp, and forget its order of rows."""
    read = GGUFFile(export_gguf(adapter, file))
    config = load_smollm2()[0].config

    def rows(name: str) -> Tensor:
        module, _, part = name.rpartition(".weight.")
        heads = rotated_heads(hugging_face_name(module), config) if part == "lora_b" else None
        tensor = read.tensor(name).clone()
        return tensor if heads is None else to_halves(tensor, heads)

    return write_gguf(file, read.metadata, {name: (rows(name), F32) for name in read.tensors})


def lead(model: Decoder, tokenizer: Tokenizer, prompt: list[int], new: list[int], theirs: str) -> list[float]:
    """Return how far the first of our tokens led that is not in their text; [] if all are."""
    same = next((n for n in range(len(new)) if not theirs.startswith(tokenizer.decode(new[: n + 1]).strip())), None)
    if same is None:
        return []
    with torch.no_grad():
        logits = model(torch.tensor([prompt + new[:same]]))[0, -1]
    first, second = logits.topk(2).values.tolist()
    return [first - second]


def measure(asked: str, adapters: str, rows: str) -> dict[str, Any]:
    started = time.perf_counter()
    question, scales = QUESTIONS[asked], SCALES[adapters]
    with tempfile.TemporaryDirectory() as folder:
        files = {name: as_they_lie(path, Path(folder) / f"{name}.gguf") for name, path in ADAPTERS.items()}
        with serving(ADAPTERS if rows == "neighbours" else files) as service:
            said = ask(service, body(question, lora=service.lora(scales)))["choices"][0]["message"]["content"].strip()
    model, tokenizer = load_smollm2()
    load_adapters(model, ADAPTERS)
    prompt = prompt_ids(tokenizer, question)
    with using(model, scales or None):
        new = generate(model, torch.tensor([prompt]), NEW, eos_id=tokenizer.eos_id)[0].tolist()
        parted = lead(model, tokenizer, prompt, new, said)
    return {
        "says": said,
        "here": tokenizer.decode(new).strip(),
        "lead": parted,
        "seconds": time.perf_counter() - started,
    }
