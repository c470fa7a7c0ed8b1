"""Let SmolLM2 define words of the Devil's Dictionary, twice each, and write what it says into peft_lessons/data.

    python -m tools.artifacts.make_definitions

Lesson 14 makes pairs of these answers. Two minutes on two cores. Words are left out whose answers hold a word on the
list of slurs and obscenity.
"""

import torch

from peft_lessons import data
from peft_lessons.models import Tokenizer, generate, load_smollm2
from peft_lessons.models.chat import prompt_ids
from peft_lessons.tasks import LONGEST_ANSWER, QUESTION
from tools.artifacts.make_data import SLURS_AND_OBSCENITY, describe, words, write

ANSWERS, TOKENS, TEMPERATURE = 2, 40, 0.8


def prompts(tokenizer: Tokenizer) -> dict[str, list[int]]:
    """Choose every second word that has a short entry and a prompt of the usual length, so that none needs padding."""
    entries = [entry for entry in data.devils_dictionary() if len(tokenizer.encode(entry["text"])) < LONGEST_ANSWER]
    asked = {
        word: prompt_ids(tokenizer, QUESTION.format(word=word)) for word in (entry["word"].lower() for entry in entries)
    }
    lengths = [len(prompt) for prompt in asked.values()]
    usual = max(lengths, key=lengths.count)
    return dict([(word, prompt) for word, prompt in asked.items() if len(prompt) == usual][::2])


def main() -> None:
    model, tokenizer = load_smollm2()
    asked = prompts(tokenizer)
    said = [
        generate(model, torch.tensor(list(asked.values())), TOKENS, tokenizer.eos_id, TEMPERATURE, seed).tolist()
        for seed in range(ANSWERS)
    ]
    rows = [
        {"word": word, "answers": [tokenizer.decode(ids) for ids in answers]}
        for word, *answers in zip(asked, *said, strict=True)
    ]
    unwanted = words(SLURS_AND_OBSCENITY)
    kept = [row for row in rows if not any(unwanted.search(answer) for answer in row["answers"])]
    entry = write(
        "definitions",
        kept,
        title="SmolLM2-135M-Instruct defines words of the Devil's Dictionary",
        source="the model itself, by tools/artifacts/make_definitions.py",
        licence="none is claimed for what a model wrote; its weights are Apache-2.0",
        made=f"{ANSWERS} answers to “{QUESTION.format(word='…')}” each, sampled at a temperature of {TEMPERATURE} with "
        f"seeds 0 and 1, cut after {TOKENS} tokens. Left out: words whose answers hold a word on the list of slurs and "
        "obscenity in tools/artifacts/make_data.py.",
    )
    describe([entry])


if __name__ == "__main__":
    main()
