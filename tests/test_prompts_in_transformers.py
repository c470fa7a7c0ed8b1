"""Prompt and prefix tuning on transformers' own decoders: padding, caches, generation, and peft's files."""

import warnings

import peft
import pytest
import torch
import transformers
from contract import perturb

from peft_lessons import (
    PrefixTuningConfig,
    PromptTuningConfig,
    adapters_disabled,
    inject,
    load_adapter,
    save_adapter,
    trainable_parameters,
)
from peft_lessons.models.stacks import THEIRS

SIZES = {
    "vocab_size": 61,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "initializer_range": 0.3,
}
OTHERS = {
    "gpt2": {
        "vocab_size": 61,
        "n_embd": 32,
        "n_layer": 2,
        "n_head": 4,
        "n_positions": 64,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "initializer_range": 0.3,
    },
    "gemma3_text": SIZES | {"sliding_window": 16, "layer_types": ["sliding_attention", "full_attention"]},
    "mixtral": SIZES | {"num_local_experts": 4},
    "qwen3_moe": SIZES | {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24},
}
METHODS = {"prompt": PromptTuningConfig, "prefix": PrefixTuningConfig}
CASES = [(model_type, method) for model_type in THEIRS for method in METHODS]
PEFTS = [(t, m) for t in ("llama", "qwen2", "qwen3", "gemma3_text", "gpt2") for m in METHODS]


def base(model_type):
    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model(model_type, **OTHERS.get(model_type, SIZES))
    return transformers.AutoModelForCausalLM.from_config(config).eval()


def config(model_type, method, tokens=5):
    return METHODS[method](tokens=tokens, targets=("transformer" if model_type == "gpt2" else "model",))


def adapted(model_type, method):
    return perturb(inject(base(model_type), config(model_type, method)))


def text():
    """(ids, mask): a row of 9 tokens, and one of 5 behind padding."""
    ids = torch.randint(3, 61, (2, 9), generator=torch.Generator().manual_seed(4))
    mask = torch.ones_like(ids)
    ids[1, :4], mask[1, :4] = 0, 0
    return ids, mask


@pytest.mark.parametrize(("model_type", "method"), CASES)
def test_a_padded_row_is_what_it_is_alone(model_type, method):
    model, (ids, mask) = adapted(model_type, method), text()
    with torch.no_grad():
        logits = model(input_ids=ids, attention_mask=mask).logits
        plain = model(input_ids=ids).logits
        alone = model(input_ids=ids[1:, 4:]).logits
        assert logits.shape == (2, 9, 61)
        torch.testing.assert_close(logits[:1], plain[:1], rtol=1e-5, atol=1e-4)
        torch.testing.assert_close(logits[1:, 4:], alone, rtol=1e-5, atol=1e-4)
        with adapters_disabled(model):
            torch.testing.assert_close(model(input_ids=ids).logits, base(model_type)(ids).logits)
    assert not torch.allclose(plain[0], base(model_type)(ids).logits[0], atol=0.1), "nothing stands before it"


@pytest.mark.parametrize(("model_type", "method"), CASES)
def test_generation_of_a_padded_batch_is_that_of_its_rows(model_type, method):
    model, (ids, mask) = adapted(model_type, method), text()
    options = {"max_new_tokens": 8, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    written = model.generate(ids, attention_mask=mask, **options)[:, 9:]
    assert torch.equal(written, model.generate(ids, attention_mask=mask, use_cache=False, **options)[:, 9:])
    for row, start in ((0, 0), (1, 4)):
        one = ids[row : row + 1, start:]
        alone = model.generate(one, attention_mask=torch.ones_like(one), **options)
        assert torch.equal(alone[:, one.shape[1] :], written[row : row + 1])


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("model_type", ["llama", "gpt2"])
def test_it_is_learnt_and_nothing_else_is(model_type, method, tmp_path):
    model, (ids, mask) = inject(base(model_type), config(model_type, method)).train(), text()
    labels = ids.masked_fill(mask == 0, -100)
    (trained,) = trainable_parameters(model)
    optimizer = torch.optim.Adam([trained], lr=0.05)
    losses = []
    for _ in range(10):
        optimizer.zero_grad()
        loss = model(input_ids=ids, attention_mask=mask, labels=labels).loss
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    model.eval()
    save_adapter(model, config(model_type, method), tmp_path)
    if model_type == "llama":
        again = load_adapter(base(model_type), tmp_path).eval()
        assert torch.equal(again(ids, attention_mask=mask).logits, model(ids, attention_mask=mask).logits)


@pytest.mark.parametrize(("model_type", "method"), PEFTS)
def test_without_padding_all_is_as_in_peft(model_type, method):
    """With padding on the left peft counts positions otherwise, so that a padded row is not what it is alone."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        kind = {"prompt": peft.PromptTuningConfig, "prefix": peft.PrefixTuningConfig}[method]
        settings = {"num_virtual_tokens": 5, "task_type": "CAUSAL_LM"}
        if method == "prefix":  # peft knows no head_dim of its own
            settings |= {"num_attention_heads": 4 if model_type == "gpt2" else 2}
            settings |= {"token_dim": 8 * settings["num_attention_heads"]}
        theirs = peft.get_peft_model(base(model_type), kind(**settings)).eval()
    model = adapted(model_type, method)
    (trained,) = trainable_parameters(model)
    with torch.no_grad():
        theirs.prompt_encoder["default"].embedding.weight.copy_(trained.flatten(1))
        ids, _ = text()
        expected = theirs(input_ids=ids).logits[:, -9:]
        torch.testing.assert_close(model(input_ids=ids).logits, expected, rtol=1e-5, atol=1e-4)


def test_what_else_a_stack_returns_is_cut_too():
    model, (ids, _) = adapted("llama", "prompt"), text()
    output = model(input_ids=ids, output_hidden_states=True)
    assert [states.shape[1] for states in output.hidden_states] == [9, 9, 9]
    assert model(input_ids=ids, return_dict=False)[0].shape == (2, 9, 61)
    embedded = (
        model.get_input_embeddings() if hasattr(model.model, "embed_tokens") else model.model.base_layer.embed_tokens
    )
    torch.testing.assert_close(model(inputs_embeds=embedded(ids)).logits, output.logits)


def test_checkpointing_goes_with_a_prompt_and_is_refused_with_a_prefix():
    """transformers would drop the cache, and the prefix with it."""
    ids, mask = text()
    model = adapted("llama", "prompt").train()
    (prompt,) = trainable_parameters(model)
    gradients = []
    for switch in ("gradient_checkpointing_disable", "gradient_checkpointing_enable"):
        getattr(model, switch)()
        prompt.grad = None
        model(input_ids=ids, attention_mask=mask, labels=ids).loss.backward()
        gradients.append(prompt.grad)
    torch.testing.assert_close(*gradients)
    model = adapted("llama", "prefix").train()
    model.gradient_checkpointing_enable()
    with pytest.raises(ValueError, match="drops with gradient checkpointing"):
        model(input_ids=ids)
    assert model.eval()(input_ids=ids).logits.isfinite().all()


def test_a_prefix_starts_from_words_read_without_dropout():
    starts = []
    for training in (False, True):  # GPT-2 drops a tenth
        model = base("gpt2").train(training)
        torch.manual_seed(1)
        starts.append(trainable_parameters(inject(model, config("gpt2", "prefix")))[0])
        assert all(module.training == training for module in model.modules())
    assert torch.equal(*starts)


@pytest.mark.parametrize("method", METHODS)
def test_other_models_are_refused_by_name(method):
    bert = transformers.BertConfig(
        vocab_size=61, hidden_size=32, intermediate_size=48, num_hidden_layers=1, num_attention_heads=4
    )
    model = transformers.BertForMaskedLM(bert)
    with pytest.raises(TypeError, match=r"got BertModel of a bert\. Of transformers it takes the stacks of llama, "):
        inject(model, METHODS[method](tokens=4, targets=("bert",)))


@pytest.mark.parametrize("method", METHODS)
def test_a_text_that_is_too_long_is_refused(method):
    for model_type in ("llama", "gpt2"):
        with pytest.raises(ValueError, match="65 tokens; this model takes at most 64"):
            adapted(model_type, method)(torch.zeros(1, 60, dtype=torch.long))


def test_a_prefix_has_to_fit_into_the_window_of_a_layer():
    with pytest.raises(ValueError, match="a prefix of 20 tokens: a layer of this model keeps only 15"):
        inject(base("gemma3_text"), config("gemma3_text", "prefix", tokens=20))
