"""The parts of experiments, each beside another way to compute it, on models that take no time."""

import pytest
import torch

from peft_lessons import data
from peft_lessons.experiments import _prefix, few_shot, laptop, packing, stored
from peft_lessons.models import generate, load_smollm2, load_tiny_gpt
from peft_lessons.tasks import country_json, country_question, country_records
from peft_lessons.training import padded, token_losses


@pytest.fixture(scope="module")
def tiny():
    return load_tiny_gpt()


@pytest.fixture(scope="module")
def smollm2_tokenizer():
    return load_smollm2()[1]


def said(model, prompt, tokens):
    """What the model says itself, with a wrong token in the middle."""
    ids = generate(model, torch.tensor([prompt]), tokens)[0].tolist()
    ids[tokens // 2] += 1
    return ids


def test_behind_a_prefix_that_was_read_once_a_model_says_what_it_says_behind_the_whole_text(tiny):
    model, tokenizer = tiny
    start = tokenizer.encode("It was a truth universally acknowledged,")
    turns = [
        tokenizer.encode(f" that {name} was {number}")
        for number, name in enumerate(["Emma", "Mr. Knightley", "he"] * 4)
    ]
    examples = [(turn, said(model, start + turn, 3 + i % 3)) for i, turn in enumerate(turns)]
    whole = laptop.likeliest(model, [(start + turn, answer) for turn, answer in examples], pad_id=0)
    assert laptop.likeliest(model, examples, 0, _prefix.read(model, start)) == whole
    assert len(set(whole)) > 1
    assert max(laptop.likeliest(model, examples, 0)) < 1, "without it the model says something else"


def test_examples_in_a_prompt_are_turns_of_a_chat(smollm2_tokenizer):
    tokenizer = smollm2_tokenizer
    examples = country_records(tokenizer)
    rows, forms = data.countries(), data.COUNTRY_TEMPLATES
    turns = [
        (country_question(rows[1], forms[0]), country_json(rows[1])),
        (country_question(rows[1], forms[1]), country_json(rows[1])),
    ]
    messages = [
        {"role": role, "content": text}
        for turn in turns
        for role, text in zip(("user", "assistant"), turn, strict=True)
    ]
    messages.append({"role": "user", "content": country_question(rows[0], forms[0])})
    prompt = few_shot.shown(examples.train[:2], tokenizer) + few_shot.split(examples.held_out[0][0], tokenizer)[1]
    assert prompt == tokenizer.encode(tokenizer.chat(messages))
    assert (
        few_shot.shown([], tokenizer) + few_shot.split(examples.new_form[0][0], tokenizer)[1] == examples.new_form[0][0]
    )


def test_without_examples_records_are_those_of_the_untouched_model():
    row, untouched = stored("few_shot").one(shots=0), stored("laptop").one(method="none")
    for form in ("known", "new"):
        assert row[form] == untouched[form][: few_shot.COUNTRIES]


@pytest.mark.slow
def test_the_first_records_behind_five_examples_are_those_that_are_stored():
    """The part of `few_shot` that takes seconds."""
    model, tokenizer = load_smollm2()
    prefix, asked = few_shot.requests(5, 2, tokenizer)
    shares = laptop.likeliest(model, asked[:4], tokenizer.eos_id, _prefix.read(model, prefix))
    assert [int(share == 1) for share in shares] == stored("few_shot").one(shots=5, seed=2)["known"][:4]


PAIRS = [([5, 6, 7], [8, 9, 2]), ([10, 11], [12, 2]), ([13], [14, 15, 16, 17, 2])]


def test_packed_examples_that_see_themselves_alone_have_the_losses_and_gradients_of_rows(tiny):
    model, _ = tiny
    rows = padded(PAIRS, 2)
    ids, labels, numbers = packing.packed(*rows)
    assert ids.tolist() == [[5, 6, 7, 8, 9, 2, 10, 11, 12, 2, 13, 14, 15, 16, 17, 2]]
    assert labels[0, :6].tolist() == [-100, -100, -100, 8, 9, 2]
    assert numbers.tolist() == [[0] * 6 + [1] * 4 + [2] * 6]
    weight = model.model.layers[0].self_attn.q_proj.weight

    def losses_and_gradient(losses):
        (gradient,) = torch.autograd.grad(losses.mean(), weight)
        return losses.detach(), gradient

    apart = losses_and_gradient(token_losses(model, *rows))
    together = losses_and_gradient(packing.packed_losses(model, ids, labels, numbers))
    leaking = losses_and_gradient(token_losses(model, ids, labels))
    for one, other, third in zip(apart, together, leaking, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
        assert (one - third).abs().max() > 1e-3
