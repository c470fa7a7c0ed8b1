"""The adapter that ships with the course, and the examples that it learnt from."""

import pytest
import torch
from peft import PeftModel
from references import smollm2_config
from transformers import LlamaForCausalLM

from peft_lessons import adapters_disabled, load_adapter, trainable_parameters
from peft_lessons.models import Decoder, Tokenizer, load_smollm2
from peft_lessons.models.chat import answer, prompt_ids
from peft_lessons.tasks import DEVILS_ADAPTER, LONGEST_ANSWER, devils_definitions


@pytest.fixture(scope="module")
def loaded() -> tuple[Decoder, Tokenizer]:
    return load_smollm2()


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


def test_the_shipped_adapter_is_the_same_in_peft(loaded: tuple[Decoder, Tokenizer]) -> None:
    """Our SmolLM2 with our loader, and transformers' SmolLM2 with `PeftModel.from_pretrained`: the same logits."""
    model, tokenizer = loaded
    reference = LlamaForCausalLM(smollm2_config())
    reference.load_state_dict(model.state_dict())
    reference = PeftModel.from_pretrained(reference, DEVILS_ADAPTER).eval()
    ids = torch.tensor([prompt_ids(tokenizer, "Define the word friend.")])
    with torch.no_grad():
        base = model(ids)
        load_adapter(model, DEVILS_ADAPTER)
        adapted, expected = model(ids), reference(ids).logits
        with adapters_disabled(model):
            assert torch.equal(model(ids), base)
    assert sum(parameter.numel() for parameter in trainable_parameters(model)) == 1_221_120
    assert (expected - base).abs().max() > 1
    torch.testing.assert_close(adapted, expected, rtol=1e-4, atol=1e-3)
    assert answer(model, tokenizer, "Define the word friend.", 8).startswith("FRIEND, n.")
