"""The parts of experiments, each beside another way to compute it, on models that take no time."""

import itertools
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
    failures,
    few_shot,
    laptop,
    packing,
    places,
    preferences,
    rewards,
    shrunk,
    stored,
    typefaces,
)
from peft_lessons.experiments.spectrum import matrices
from peft_lessons.models import LETTERS, generate, letter_ids, load_smollm2, load_tiny_gpt
from peft_lessons.preference import answer_log_probabilities, token_log_probabilities
from peft_lessons.tasks import (
    Pair,
    Preferences,
    country_json,
    country_question,
    country_records,
    digits_of,
    pictures_in,
    typeface,
)
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


def test_rewards_and_how_each_answers_the_cheat_before():
    decent, repeating, invented = "In a way I am so happy at it", "of of of of of", "BththX qzthq bthx"
    assert rewards.without_e("The end of it.") == rewards.distinct("The end of it.") == 0.5
    assert rewards.without_e("?!") == rewards.distinct("?!") == 0, "nothing said earns nothing"
    assert rewards.without_e(decent) == rewards.without_e(repeating) == rewards.without_e(invented) == 1
    assert rewards.distinct(decent) == rewards.distinct(invented) == 1 and rewards.distinct(repeating) == 0.2
    assert rewards.REWARDS["known"](decent) == 1 and rewards.REWARDS["known"](invented) == 0


def test_a_batch_of_samples_scores_what_the_model_itself_said_within_groups(tiny, monkeypatch):
    model, _ = tiny
    monkeypatch.setattr(rewards, "tokens", lambda: rewards.held_out().flatten().tolist())  # all novels take seconds
    prompts = rewards.held_out()[:3]
    ids, labels = rewards.sample(model, prompts, answers=2, seed=0)
    assert ids[:, : rewards.PROMPT].tolist() == [row for row in prompts.tolist() for _ in range(2)]
    assert (labels[:, : rewards.PROMPT] == -100).all()
    assert torch.equal(labels[:, rewards.PROMPT :], ids[:, rewards.PROMPT :])
    assert ids.shape[1] == rewards.PROMPT + rewards.SAMPLE and len(set(rewards.texts(ids))) == 6
    means = []
    samples = rewards.batches(model, lambda text: float(len(text)), seed=1, means=means)
    (first, _, advantages), (second, _, _) = next(samples), next(samples)
    earned = torch.tensor([float(len(text)) for text in rewards.texts(first)])
    for group in range(rewards.PROMPTS):
        rows = slice(group * rewards.ANSWERS, (group + 1) * rewards.ANSWERS)
        torch.testing.assert_close(advantages[rows], earned[rows] - earned[rows].mean())
    assert means[0] == pytest.approx(earned.mean().item()) and not torch.equal(first, second)


def test_what_the_tiny_gpt_writes_before_it_is_rewarded_is_what_is_stored():
    """The part of `rewards` that needs no training. Another machine may sample a few tokens otherwise."""
    seen = rewards.look(*rewards.prepare("LoRA, rank 8"), rewards.without_e, beta=0.02)
    assert seen["kl"] == pytest.approx(0, abs=1e-6) and seen["objective"] == pytest.approx(seen["reward"], abs=1e-6)
    for row in stored("rewards").where(reward_for="no e"):
        assert row["reward"][0] == pytest.approx(seen["reward"], rel=0.03)
    with pytest.raises(ValueError, match="'LoRA'; there are LoRA, rank 1"):
        rewards.prepare("LoRA")


def test_a_run_of_preferences_measures_what_the_whole_model_says(tiny, monkeypatch):
    """On the tiny GPT, with two of its four blocks frozen, beside log-probabilities of the whole model."""
    _, tokenizer = tiny
    prompts = rewards.held_out()[:9].tolist()
    pairs = [Pair(prompt, [7 + i, 5, tokenizer.eos_id], [9, 3 + i, 4, 8]) for i, prompt in enumerate(prompts[:6])]
    small = {"FROZEN": 2, "LORA": LoRAConfig(rank=2, layers=(2, 3)), "PAIRS": 4, "BATCH": 2, "STEPS": 4, "ANSWER": 5}
    small |= {"LOOKS": (0, 4), "general_text": rewards.held_out, "load_smollm2": load_tiny_gpt}
    small["definition_pairs"] = lambda tokenizer, name: Preferences(pairs[:4], pairs[4:], prompts[6:])
    for name, value in small.items():
        monkeypatch.setattr(preferences, name, value)
    trained = []
    monkeypatch.setattr(preferences, "inject", lambda *given: trained.append(inject(*given)) or trained[-1])
    row = preferences.measure("tiny", learning_rate=1e-2, beta=0.1, nll=0.2, seed=0)
    assert row["margins"][0] == pytest.approx(0, abs=1e-4) and row["margins"][-1] > 0.1
    base, after = load_tiny_gpt()[0], trained[-1]
    for name in ("chosen", "rejected"):
        answers = padded([(pair.prompt, getattr(pair, name)) for pair in pairs[4:]], 0)
        with torch.no_grad():
            moved = answer_log_probabilities(after, *answers) - answer_log_probabilities(base, *answers)
        assert row[name] == pytest.approx([0, moved.mean().item()], abs=1e-3)
    text = rewards.held_out()
    assert row["perplexity"] == pytest.approx(
        [math.exp(evaluate_loss(model, [(text, text)])) for model in (base, after)], rel=1e-4
    )
    assert row["kl"][0] == pytest.approx(0, abs=1e-5) and row["kl"][1] > 1e-3
    assert len(row["says"][0]) == 3 and 1 <= row["length"][1] <= 5


def test_stored_preferences_begin_at_the_base():
    for row in stored("preferences").rows:
        assert row["margins"][0] == pytest.approx(0, abs=1e-3) and len(row["margins"]) == preferences.STEPS
        for name in ("chosen", "rejected", "kl"):
            assert row[name][0] == pytest.approx(0, abs=1e-3) and len(row[name]) == len(preferences.LOOKS)


@pytest.mark.slow
def test_perplexity_before_preferences_are_learnt_is_what_is_stored():
    """The part of `preferences` that takes seconds, and needs no training."""
    measured = math.exp(evaluate_loss(load_smollm2()[0], [(preferences.general_text(),) * 2]))
    for row in stored("preferences").rows:
        assert row["perplexity"][0] == pytest.approx(measured, rel=0.03)


@pytest.mark.slow
def test_what_each_fault_makes_of_the_first_batch_is_what_is_stored():
    """The part of `failures` that takes seconds: a new adapter changes nothing, so the first loss is the base's."""
    model = load_smollm2()[0]
    with torch.no_grad():
        for row in stored("failures").rows:
            first = failures.batches(row["fault"], row["seed"])[0]
            assert language_model_loss(model, *first).item() == pytest.approx(row["losses"][0], rel=1e-3), row["fault"]


def test_no_run_learns_the_twelve_letters_and_larger_sets_hold_the_smaller():
    for smaller, larger in itertools.pairwise(typefaces.SETS):
        assert set(smaller) < set(larger)
    assert set(typefaces.SETS[-1]) == set(LETTERS) - set(typefaces.UNSEEN) and len(typefaces.UNSEEN) == 12
    assert typefaces.TUNED_ON not in typefaces.FACES


def test_rates_are_the_best_of_those_that_were_tried_and_not_at_an_end():
    for (method, where), (best, *others) in typefaces.RATES.items():
        tried = stored("typefaces").where(part="rate", method=method, where=where)
        losses = {run["learning_rate"]: run["held_out"] for run in tried}
        assert losses.keys() == {best, *others} and min(losses, key=losses.get) == best
        assert min(others) < best < max(others)


def test_places_train_about_as_many_numbers():
    numbers = {run["numbers"] for run in stored("typefaces").where(part="where")}
    assert len(numbers) > 1 and max(numbers) < 1.1 * min(numbers)


def test_what_is_drawn_is_stored_as_pictures():
    pictures = typeface("dkg")[letter_ids("CJ")]
    torch.testing.assert_close(pictures_in(digits_of(pictures)), pictures)
    for run in stored("typefaces").where(part="letters"):
        assert len(run["drawn"]) == (0 if run["seed"] else 12)


def test_unknown_parts_of_a_run_are_said():
    with pytest.raises(ValueError, match="no method is called 'HRA, rank 2'; there are LoRA, rank 1"):
        typefaces.prepare("HRA, rank 2", "all")
