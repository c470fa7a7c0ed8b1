"""SmolLM2 beside llama.cpp, which reads the same file with code of its own, with an adapter and without.

llama.cpp rounds the inputs of each product to 8 bits in blocks of 32. That moves a log-probability by a tenth or two,
so where the two likeliest tokens lie nearer than that, either may come first.
"""

import importlib.util
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch

from benchmarks.llama_cpp import completions
from benchmarks.measure import in_new_process
from peft_lessons import adapters_disabled, export_gguf, load_adapter
from peft_lessons.models import Decoder, generate, load_smollm2
from peft_lessons.models.chat import prompt_ids
from peft_lessons.tasks import DEVILS_ADAPTER

QUESTIONS = ("Why is the sky blue?", "Define the word friend.")
NEW = 16  # tokens
ROUNDING = 0.5  # in log-probability; the largest seen is 0.3

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("xllamacpp") is None, reason="xllamacpp, which brings llama.cpp, is not installed"
)


@pytest.mark.slow
def test_the_same_text_with_an_adapter_and_without(tmp_path: Path) -> None:
    model, tokenizer = load_smollm2()
    load_adapter(model, DEVILS_ADAPTER)
    file = export_gguf(DEVILS_ADAPTER, tmp_path / "adapter.gguf")
    prompts = [prompt_ids(tokenizer, question) for question in QUESTIONS]
    requests = [{"prompt": prompt, "new": NEW, "scale": scale} for prompt in prompts for scale in (0.0, 1.0)]
    answers = in_new_process(completions, requests, 2, [str(file)])
    texts, equal, compared = [], 0, 0
    for request, theirs in zip(requests, answers, strict=True):
        with nullcontext() if request["scale"] else adapters_disabled(model):
            same, length = equal_tokens(model, torch.tensor([request["prompt"]]), tokenizer.eos_id, theirs)
        equal, compared = equal + same, compared + length
        texts.append(tokenizer.decode(theirs["ids"]))
    assert equal > 0.5 * compared > NEW, "ties are rare"
    assert texts[2] != texts[3], "the adapter changes what a word means"


def equal_tokens(model: Decoder, prompt: torch.Tensor, eos_id: int, theirs: dict) -> tuple[int, int]:
    """How many tokens are the same, from the first on, and how many ours are. What parts the two must be a tie."""
    ours = generate(model, prompt, NEW, eos_id=eos_id)
    with torch.no_grad():
        scores = model(torch.cat((prompt, ours), dim=1))[0, prompt.shape[1] - 1 : -1].log_softmax(-1)
    length = int((ours != eos_id).sum())  # llama.cpp was told to go on there
    for i, (token, score) in enumerate(zip(theirs["ids"][:length], theirs["log_probabilities"], strict=False)):
        assert abs(scores[i, token] - score) < ROUNDING, (i, token)
        if token != ours[0, i]:
            assert scores[i].max() - scores[i, token] < ROUNDING, (i, token)
            return i, length
    return length, length
