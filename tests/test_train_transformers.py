"""The training loop and models of transformers, of every kind."""

from collections.abc import Mapping
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import transformers
from torch import Tensor, nn
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    T5Config,
    T5ForConditionalGeneration,
    ViTConfig,
    ViTForImageClassification,
)

from peft_lessons import LoRAConfig, inject
from peft_lessons.training import IGNORED, evaluate_loss, language_model_loss, train

VOCABULARY = 40


def gpt2() -> GPT2LMHeadModel:
    torch.manual_seed(0)
    return GPT2LMHeadModel(
        GPT2Config(
            vocab_size=VOCABULARY, n_embd=16, n_layer=1, n_head=2, n_positions=16, bos_token_id=0, eos_token_id=0
        )
    )


def llama() -> LlamaForCausalLM:
    torch.manual_seed(0)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=VOCABULARY, hidden_size=16, intermediate_size=24, num_hidden_layers=1, num_attention_heads=2
        )
    )


def bert() -> BertForSequenceClassification:
    torch.manual_seed(0)
    return BertForSequenceClassification(
        BertConfig(
            vocab_size=VOCABULARY,
            hidden_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=24,
            num_labels=3,
        )
    )


def text_batch() -> dict[str, Tensor]:
    """Two rows, padded on the left and on the right; the prompt is not scored."""
    generator = torch.Generator().manual_seed(1)
    input_ids = torch.randint(VOCABULARY, (2, 8), generator=generator)
    mask, labels = torch.ones_like(input_ids), input_ids.clone()
    mask[0, :3], mask[1, 6:] = 0, 0
    labels[mask == 0] = IGNORED
    labels[0, 3:5] = IGNORED
    return {"input_ids": input_ids, "attention_mask": mask, "labels": labels}


class Plain(nn.Module):
    """A model whose forward pass returns a tuple that begins with the logits."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, *inputs: Tensor, **named: Tensor) -> tuple:
        return self.model(*inputs, **named, return_dict=False)


@pytest.mark.parametrize("make", [gpt2, llama])
def test_the_loss_is_that_of_transformers(make) -> None:
    model, batch = make().eval(), text_batch()
    expected = model(**batch).loss.item()  # shifts the labels itself, once
    assert evaluate_loss(model, [batch]) == pytest.approx(expected, rel=1e-6)
    assert language_model_loss(model, **batch).item() == pytest.approx(expected, rel=1e-6)
    unmasked = model(batch["input_ids"], labels=batch["labels"]).loss.item()
    assert evaluate_loss(model, [(batch["input_ids"], batch["labels"])]) == pytest.approx(unmasked, rel=1e-6)
    assert abs(unmasked - expected) > 1e-4
    assert evaluate_loss(Plain(model), [batch]) == pytest.approx(expected, rel=1e-6)


def test_a_tokenizers_batch_is_one() -> None:
    encoded = transformers.BatchEncoding(text_batch())
    assert evaluate_loss(gpt2(), [encoded]) == evaluate_loss(gpt2(), [text_batch()])


def test_evaluation_is_in_eval_mode_and_leaves_the_mode() -> None:
    model = gpt2().train()  # has dropout
    model.transformer.wte.eval()
    first = evaluate_loss(model, [text_batch()])
    assert first == evaluate_loss(model, [text_batch()])
    assert model.training and model.transformer.h[0].training and not model.transformer.wte.training


@pytest.mark.parametrize("make", [gpt2, llama])
def test_a_causal_model_learns(make) -> None:
    model = make()
    targets = ("q_proj", "v_proj", "lm_head") if make is llama else ("lm_head",)
    model = inject(model, LoRAConfig(rank=4, targets=targets))
    before = evaluate_loss(model, [text_batch()])
    history = train(model, [text_batch()] * 30, steps=30, learning_rate=0.05, bar=iter)
    assert history.losses[0] == pytest.approx(before, abs=0.3)
    assert evaluate_loss(model, [text_batch()]) < 0.5 * before
    assert not model.training


def classification(model: nn.Module, labels: Tensor, **inputs: Tensor) -> Tensor:
    return F.cross_entropy(model(**inputs).logits, labels)


def classes() -> list[dict[str, Tensor]]:
    ids = torch.arange(12).view(6, 2)
    return [{"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": torch.arange(6) % 3}]


def images() -> list[dict[str, Tensor]]:
    pixels = torch.randn(6, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    return [{"pixel_values": pixels, "labels": torch.arange(6) % 3}]


def vit() -> ViTForImageClassification:
    torch.manual_seed(0)
    return ViTForImageClassification(
        ViTConfig(
            hidden_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=24,
            image_size=8,
            patch_size=4,
            num_labels=3,
        )
    )


def t5() -> T5ForConditionalGeneration:
    torch.manual_seed(0)
    return T5ForConditionalGeneration(
        T5Config(
            vocab_size=VOCABULARY, d_model=16, d_kv=8, d_ff=24, num_layers=1, num_heads=2, decoder_start_token_id=0
        )
    )


def own_loss(model: nn.Module, **batch: Tensor) -> Tensor:
    return model(**batch).loss


def translations() -> list[dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    ids, labels = torch.randint(2, VOCABULARY, (2, 4, 5), generator=generator).unbind()
    labels[0, 2:] = IGNORED
    return [{"input_ids": ids, "labels": labels}]


@pytest.mark.parametrize(
    ("make", "batches", "loss"),
    [(bert, classes, classification), (vit, images, classification), (t5, translations, own_loss)],
)
def test_a_loss_of_your_own_trains_any_model(make, batches, loss) -> None:
    model, batch = make(), batches()
    expected = loss(model.eval(), **batch[0]).item()
    assert evaluate_loss(model, batch, loss=loss) == pytest.approx(expected, rel=1e-6)
    train(model, batch * 30, steps=30, learning_rate=0.01, loss=loss, bar=iter)
    assert evaluate_loss(model, batch, loss=loss) < 0.6 * expected


def test_the_mean_over_batches_of_unequal_size_is_over_labels() -> None:
    model, (whole,) = t5().eval(), translations()
    parts: list[Mapping[str, Any]] = [
        {name: part[rows] for name, part in whole.items()} for rows in (slice(1), slice(1, 4))
    ]
    means = [own_loss(model, **part).item() for part in parts]
    expected = own_loss(model, **whole).item()
    assert evaluate_loss(model, parts, loss=own_loss) == pytest.approx(expected, rel=1e-6)
    assert abs(sum(means) / 2 - expected) > 1e-3


def test_what_has_no_next_tokens_asks_for_a_loss() -> None:
    with pytest.raises(ValueError, match=r"got \(6, 2\) and \(6,\)\. For another task give a `loss`"):
        evaluate_loss(bert(), [{"input_ids": torch.arange(12).view(6, 2), "labels": torch.arange(6)}])
    ids = torch.arange(12).view(6, 2)
    with pytest.raises(
        ValueError, match=r"logits of \(6, 3\), and next-token loss needs \(batch, tokens, vocabulary\)"
    ):
        train(bert(), [(ids, ids)], steps=1, learning_rate=0.1)
    with pytest.raises(TypeError, match=r"this one has pixel_values, labels\. For others give a `loss`"):
        train(vit(), images(), steps=1, learning_rate=0.1)
    headless = transformers.BertModel(bert().config)
    with pytest.raises(TypeError, match="without logits: give a `loss`"):
        evaluate_loss(headless, [(ids, ids)])
