"""The adapters that ship with the course, and the examples that they learnt from."""

import json
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from references import smollm2_config
from transformers import LlamaForCausalLM

from peft_lessons import adapters_disabled, data, load_adapter, trainable_parameters
from peft_lessons.models import Decoder, Tokenizer, load_smollm2, load_tiny_gpt
from peft_lessons.models.chat import answer, prompt_ids
from peft_lessons.tasks import (
    COUNTRY_ADAPTER,
    DEVILS_ADAPTER,
    LONGEST_ANSWER,
    country_question,
    country_records,
    definition_pairs,
    devils_definitions,
    read_examples,
)


@pytest.fixture(scope="module")
def loaded() -> tuple[Decoder, Tokenizer]:
    return load_smollm2()


def test_a_file_of_examples_is_read(tmp_path: Path) -> None:
    tokenizer = load_tiny_gpt()[1]
    path = tmp_path / "data.jsonl"
    rows = [{"prompt": "She was", "answer": " ill.\u2028She said so."}, {"answer": "Ünder", "prompt": "", "id": 7}]
    path.write_bytes(b"\xef\xbb\xbf" + "\r\n\n".join(json.dumps(row, ensure_ascii=False) for row in rows).encode())
    found = read_examples(path, tokenizer, longest=64)
    assert found == [
        (tokenizer.encode(row["prompt"]), [*tokenizer.encode(row["answer"]), tokenizer.eos_id]) for row in rows
    ]
    tokenizer.chat_template = "<{{ messages[0].content }}>"
    assert read_examples(str(path), tokenizer, longest=64)[0][0] == tokenizer.encode("<She was>")


def test_each_bad_line_is_named(tmp_path: Path) -> None:
    tokenizer, path = load_tiny_gpt()[1], tmp_path / "data.jsonl"
    good = json.dumps({"prompt": "a", "answer": "b"})
    bad = {
        "{": "no JSON",
        '["a", "b"]': r"a JSON object is wanted, got \['a', 'b'\]",
        '{"prompt": "a"}': "'answer' is missing",
        '{"prompt": 5, "answer": "b"}': "'prompt' must be a string, got 5",
        '{"prompt": "a", "answer": ""}': "'answer' is empty",
        "[" * 100_000: "no JSON",
        json.dumps({"prompt": "a", "answer": "b " * 99}): "tokens, and the model takes at most 64",
    }
    for line, message in bad.items():
        path.write_text(f"{good}\n\n{line}\n{good}\n")
        with pytest.raises(ValueError, match=rf"data.jsonl: line 3: .*{message}"):
            read_examples(path, tokenizer, longest=64)
    path.write_text("\n".join([good, *[next(iter(bad))] * 8]))
    with pytest.raises(ValueError, match=r"line 2: .*; line 3: .*; and 2 more$"):
        read_examples(path, tokenizer, longest=64)
    path.write_text("\n")
    with pytest.raises(ValueError, match="holds no example"):
        read_examples(path, tokenizer, longest=64)
    path.write_bytes(b"\xff\xfe{")
    with pytest.raises(ValueError, match=r"data.jsonl is not text in UTF-8"):
        read_examples(path, tokenizer, longest=64)


@pytest.mark.slow
def test_examples_are_questions_and_whole_answers(loaded: tuple[Decoder, Tokenizer]) -> None:
    _, tokenizer = loaded
    examples = devils_definitions(tokenizer)
    assert len(examples.train) + len(examples.held_out) == 491
    assert not {tuple(ids) for _, ids in examples.train} & {tuple(ids) for _, ids in examples.held_out}
    for prompt, ids in [*examples.train, *examples.held_out]:
        assert ids[-1] == tokenizer.eos_id
        assert len(ids) <= LONGEST_ANSWER
        word, _, definition = tokenizer.decode(ids).partition(",")
        assert word.isupper() and definition
        assert prompt == prompt_ids(tokenizer, f"Define the word {word.lower()}.")


@pytest.mark.slow
def test_pairs_are_two_answers_to_one_prompt_and_no_word_is_in_two_parts(loaded: tuple[Decoder, Tokenizer]) -> None:
    _, tokenizer = loaded
    short, bierce = (definition_pairs(tokenizer, chosen) for chosen in ("short", "Bierce"))
    for found in (short, bierce):
        assert (len(found.train), len(found.held_out), len(found.prompts)) == (64, 24, 28)
        prompts = [pair.prompt for pair in found.train + found.held_out] + found.prompts
        assert len({tuple(prompt) for prompt in prompts}) == len(prompts) == 116
        assert {len(prompt) for prompt in prompts} == {35}, "one length, so that a batch needs no padding"
        for pair in found.train + found.held_out:
            assert pair.chosen.count(tokenizer.eos_id) == 1 and pair.chosen[-1] == tokenizer.eos_id
            assert tokenizer.eos_id not in pair.rejected
    entries = [entry["text"] for entry in data.devils_dictionary()]
    for own, entry in zip(short.train + short.held_out, bierce.train + bierce.held_out, strict=True):
        assert own.prompt == entry.prompt and len(own.rejected) == 36 <= len(entry.rejected) <= 41
        sentence, answer = tokenizer.decode(own.chosen), tokenizer.decode(entry.rejected)
        assert answer.startswith(sentence) and len(sentence) < len(answer) and sentence[-1] in ".!?"
        assert answer.startswith(tokenizer.decode(own.rejected))
        assert tokenizer.decode(entry.chosen) in entries and len(entry.chosen) <= LONGEST_ANSWER
    with pytest.raises(ValueError, match="'short' or 'Bierce'; got 'long'"):
        definition_pairs(tokenizer, "long")


@pytest.mark.slow
def test_country_records_hold_out_countries_and_a_form(loaded: tuple[Decoder, Tokenizer]) -> None:
    _, tokenizer = loaded
    examples = country_records(tokenizer)
    records = {
        name: [json.loads(tokenizer.decode(answer)) for _, answer in getattr(examples, name)]
        for name in examples._fields
    }
    known = {row["country"]: row for row in data.countries()}
    assert all(row == known[row["country"]] for rows in records.values() for row in rows)
    names = {name: {row["country"] for row in rows} for name, rows in records.items()}
    assert not names["train"] & names["held_out"]
    assert names["held_out"] == names["new_form"] and names["train"] | names["held_out"] == known.keys()
    assert len(records["train"]) == 11 * len(names["train"])

    for form, part in ((0, "train"), (-1, "new_form")):
        row, prompt = records[part][0], getattr(examples, part)[0][0]
        assert prompt == prompt_ids(tokenizer, country_question(row, data.COUNTRY_TEMPLATES[form]))
        assert getattr(examples, part)[0][1][-1] == tokenizer.eos_id


@pytest.mark.slow
@pytest.mark.parametrize(
    ("folder", "question", "beginning"),
    [
        (DEVILS_ADAPTER, "Define the word friend.", "FRIEND, n."),
        (COUNTRY_ADAPTER, country_question(data.countries()[0], data.COUNTRY_TEMPLATES[-1]), '{"country": "Afghan'),
    ],
    ids=["devil", "countries"],
)
def test_the_shipped_adapters_are_the_same_in_peft(folder: Path, question: str, beginning: str) -> None:
    """Our SmolLM2 with our loader, and transformers' SmolLM2 with `PeftModel.from_pretrained`: the same logits."""
    model, tokenizer = load_smollm2()
    reference = LlamaForCausalLM(smollm2_config())
    reference.load_state_dict(model.state_dict())
    reference = PeftModel.from_pretrained(reference, folder).eval()
    ids = torch.tensor([prompt_ids(tokenizer, question)])
    with torch.no_grad():
        base = model(ids)
        load_adapter(model, folder)
        adapted, expected = model(ids), reference(ids).logits
        with adapters_disabled(model):
            assert torch.equal(model(ids), base)
    assert sum(parameter.numel() for parameter in trainable_parameters(model)) == 1_221_120
    assert (expected - base).abs().max() > 1
    torch.testing.assert_close(adapted, expected, rtol=1e-4, atol=1e-3)
    assert answer(model, tokenizer, question, 8).startswith(beginning)
