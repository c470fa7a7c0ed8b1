"""The parts of experiments, each beside another way to compute it, on models that take no time."""

import math

import peft
import pytest
import torch
from peft.tuners.lora.intruders import reduce_intruder_dimension
from torch import nn

from peft_lessons import LoRAConfig, data, inject, trainable_parameters
from peft_lessons.experiments import (
    _frozen,
    _prefix,
    capacity,
    distilled,
    few_shot,
    laptop,
    packing,
    places,
    shrunk,
    stored,
)
from peft_lessons.experiments.spectrum import matrices
from peft_lessons.models import generate, load_smollm2, load_tiny_gpt
from peft_lessons.preference import token_log_probabilities
from peft_lessons.tasks import country_json, country_question, country_records
from peft_lessons.training import evaluate_loss, language_model_loss, padded, token_losses


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


def test_losses_from_what_the_last_block_gets_are_those_of_the_whole_model(tiny):
    model, _ = tiny
    ids = torch.randint(1024, (3, 20), generator=torch.Generator().manual_seed(0))
    ours = capacity.losses(model, _frozen.below(model, ids, len(model.model.layers) - 1), ids)
    torch.testing.assert_close(ours, token_losses(model, ids, ids), rtol=1e-4, atol=1e-4)


def test_before_it_learns_random_tokens_by_heart_the_model_is_worse_than_guessing():
    """The part of `capacity` that needs no training."""
    for row in stored("capacity").where(rank=1, amount=1.0):
        model, ids = capacity.prepare(row["rank"], row["amount"], row["seed"])
        assert row["data_bits"] == 10 * 63 * len(ids)
        assert evaluate_loss(model, [(ids, ids)]) == pytest.approx(row["loss_before"], rel=1e-4)
        assert row["loss_before"] > math.log(1024) > row["loss"]
        assert row["bits"] == pytest.approx(63 * len(ids) * (10 - row["loss"] / math.log(2)), rel=1e-4)


@pytest.mark.parametrize("scale", [0.0, 0.75])
def test_intruders_are_shrunk_as_peft_does_it(scale):
    """peft cuts the change to the adapter's rank afterwards; here that is the full one."""
    torch.manual_seed(0)
    base = nn.Sequential(nn.Linear(12, 12, bias=False))
    before = base[0].weight.detach().clone()
    config = peft.LoraConfig(r=12, lora_alpha=12, target_modules=["0"], init_lora_weights=False)
    model = peft.get_peft_model(base, config)
    layer = model.base_model.model[0]
    with torch.no_grad():
        layer.lora_B["default"].weight.mul_(5)
        after = before + layer.get_delta_weight("default")
    reduce_intruder_dimension(
        model, top_k=shrunk.LEADING, threshold_epsilon=shrunk.THRESHOLD, mitigation_lambda=scale, logging_sink=None
    )
    theirs = before + layer.get_delta_weight("intruder_reduced").detach()
    ours = shrunk.shrink(after, torch.linalg.svd(before).U, scale)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
    assert (ours - after).norm() > 0.1 * after.norm(), "there are intruders"


def test_a_matrix_without_intruders_stays(tiny):
    name, weight = next(iter(matrices(tiny[0]).items()))
    torch.testing.assert_close(shrunk.shrink(weight, places.old_directions()[name], 0.0), weight)


def test_a_student_that_is_its_teacher_diverges_by_nothing(tiny):
    """The log-probabilities of examples, one by one, meet the places of the batch that they are of."""
    model, _ = tiny
    with torch.no_grad():
        lessons = [(pair, token_log_probabilities(model, *padded([pair], 2))) for pair in PAIRS]
        same = distilled.batch(lessons, 2)
        assert distilled.loss(model, *same).abs().max() < 1e-4
        assert len(distilled.loss(model, *same)) == 10
        other = distilled.batch(lessons[::-1], 2)[:2] + same[2:]
        assert distilled.loss(model, *other).min() > 1e-4


def test_divergence_is_cross_entropy_less_entropy(tiny):
    model, _ = tiny
    rows = padded(PAIRS, 2)
    with torch.no_grad():
        given = token_log_probabilities(model, *rows)
        wanted = torch.randn_like(given).log_softmax(-1)
        closed = (wanted.exp() * wanted).sum(-1) - (wanted.exp() * given).sum(-1)
        torch.testing.assert_close(distilled.loss(model, *rows, wanted), closed)
        certain = torch.full_like(given, -1e4).scatter(-1, rows[0][:, 1:][rows[1][:, 1:] >= 0][:, None], 0.0)
        loss = distilled.loss(model, *rows, certain).mean()
        torch.testing.assert_close(loss, language_model_loss(model, *rows))


def test_answers_in_batches_behind_what_all_begin_with_are_those_of_generation(tiny):
    model, tokenizer = tiny
    start = tokenizer.encode("It was a truth universally acknowledged, that")
    turns = [tokenizer.encode(f" {turn}") for turn in ("she was", "Mr. Bennet", "he", "it is a truth", "they were")]
    never = model.config.vocab_size
    for turn, (ids, given) in zip(turns, distilled.answers(model, start, turns, never), strict=True):
        assert ids == generate(model, torch.tensor([start + turn]), distilled.ANSWER)[0].tolist()
        with torch.no_grad():
            behind = token_log_probabilities(model, *padded([(start + turn, ids)], 0))
        torch.testing.assert_close(given, behind, rtol=1e-4, atol=1e-4)
    end = ids[3]
    assert distilled.answers(model, start, turns[-1:], end)[0][0] == ids[: ids.index(end) + 1]


def test_blocks_that_train_say_above_a_table_what_they_say_in_the_model():
    model = inject(load_tiny_gpt()[0], LoRAConfig(rank=2, layers=(2, 3)))
    torch.manual_seed(0)
    for parameter in trainable_parameters(model):
        nn.init.normal_(parameter, std=0.1)
    ids = [torch.randint(1024, shape) for shape in ((3, 20), (2, 7))]
    upper, rows = _frozen.above(model, 2, [_frozen.below(model, some, 2) for some in ids])
    assert [tuple(some.shape) for some in rows] == [(3, 20), (2, 7)]
    for some, tokens in zip(rows, ids, strict=True):
        expected = token_losses(model, tokens, tokens)
        torch.testing.assert_close(token_losses(upper, some, tokens), expected, rtol=1e-4, atol=1e-4)
    assert {id(parameter) for parameter in trainable_parameters(upper)} == set(map(id, trainable_parameters(model)))
