"""The decoder against transformers' Llama, and against what its parts should do."""

import copy
import pickle
from dataclasses import replace

import pytest
import torch
from transformers import LlamaForCausalLM

from benchmarks.training import in_transformers
from peft_lessons.models.decoder import Block, Decoder, DecoderConfig, KeyValueCache, generate, rotary_angles, rotate

CONFIG = DecoderConfig(
    vocab_size=101,
    hidden_size=96,
    intermediate_size=160,
    num_hidden_layers=3,
    num_attention_heads=6,
    num_key_value_heads=2,
    max_position_embeddings=64,
    rope_theta=1000.0,
    initializer_range=0.2,
)


def new_decoder(config: DecoderConfig = CONFIG, seed: int = 0) -> Decoder:
    torch.manual_seed(seed)
    model = Decoder(config).eval()
    for name, parameter in model.named_parameters():
        if "norm" in name:
            torch.nn.init.normal_(parameter, mean=1, std=0.3)
    return model


def as_transformers(model: Decoder) -> LlamaForCausalLM:
    return in_transformers(model).eval()


def ids(*shape: int, seed: int = 1) -> torch.Tensor:
    return torch.randint(CONFIG.vocab_size, shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def model() -> Decoder:
    return new_decoder()


@pytest.mark.parametrize("heads", [(6, 2), (6, 6), (6, 1)])
@pytest.mark.parametrize("tied", [True, False])
def test_logits_and_gradients_equal_transformers(heads: tuple[int, int], tied: bool) -> None:
    config = replace(
        CONFIG, num_attention_heads=heads[0], num_key_value_heads=heads[1], tie_word_embeddings=tied, rms_norm_eps=1e-3
    )
    model = new_decoder(config)
    reference = as_transformers(model)
    batch = ids(3, 20)
    logits, expected = model(batch), reference(batch).logits
    assert torch.equal(logits, expected)
    assert logits.std() > 0.1

    weights = torch.randn(logits.shape)
    (logits * weights).sum().backward()
    (expected * weights).sum().backward()
    gradients = {name: parameter.grad for name, parameter in reference.named_parameters()}
    for name, parameter in model.named_parameters():
        scale = gradients[name].abs().max()
        assert (parameter.grad - gradients[name]).abs().max() <= 1e-5 * scale, name


def test_bf16_is_as_near_to_fp32_as_transformers(model: Decoder) -> None:
    """Not equal to it: torch's RMSNorm multiplies by the weight before it rounds to bf16, transformers' after."""
    reference = as_transformers(model).bfloat16()
    batch = ids(8, 40)
    exact = model(batch)
    ours = (model.bfloat16()(batch) - exact).norm() / exact.norm()
    theirs = (reference(batch).logits - exact).norm() / exact.norm()
    assert 0 < ours < theirs < 0.06


def test_greedy_text_equals_transformers(model: Decoder) -> None:
    prompt = ids(2, 7)
    expected = as_transformers(model).generate(prompt, max_new_tokens=30, do_sample=False, eos_token_id=None)
    new = generate(model, prompt, 30)
    assert torch.equal(new, expected[:, 7:])
    assert len(new.unique()) > 5


def test_generating_with_a_cache_equals_computing_everything_again(model: Decoder) -> None:
    prompt = ids(2, 5)
    new = generate(model, prompt, 20)
    sequence = prompt
    for _ in range(20):
        sequence = torch.cat((sequence, model(sequence)[:, -1].argmax(-1, keepdim=True)), dim=1)
    assert torch.equal(new, sequence[:, 5:])


def test_generation_leaves_the_model_as_it_was(model: Decoder) -> None:
    prompt = ids(1, 9)
    before, state = model(prompt), copy.deepcopy(model.state_dict())
    first = generate(model, prompt, 10)
    assert torch.equal(generate(model, prompt, 10), first)
    assert torch.equal(model(prompt), before)
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())
    assert first.is_inference() is False  # an inference tensor could not be trained on


@pytest.mark.parametrize("cuts", [[4, 12], [1, 2, 3], [15]])
def test_a_text_in_pieces_equals_the_whole(model: Decoder, cuts: list[int]) -> None:
    batch = ids(2, 16)
    cache = KeyValueCache()
    pieces = [model(piece, cache=cache) for piece in torch.tensor_split(batch, cuts, dim=1)]
    assert cache.tokens == 16
    assert torch.allclose(torch.cat(pieces, dim=1), model(batch), atol=1e-4)


@pytest.mark.parametrize("grad", [True, False])
def test_a_cut_cache_goes_on_as_if_the_rest_had_not_been_read(model: Decoder, grad: bool) -> None:
    batch, cache = ids(2, 16), KeyValueCache()
    with torch.set_grad_enabled(grad):
        for piece in (batch[:, :9], ids(2, 5, seed=9), ids(2, 1, seed=8)):
            model(piece, cache=cache)
        cache.cut(7)
        assert cache.tokens == 7
        rest = model(batch[:, 7:], cache=cache)
    assert torch.allclose(rest, model(batch)[:, 7:], atol=1e-4)


def test_no_token_sees_what_follows_it(model: Decoder) -> None:
    batch = ids(1, 12)
    changed = batch.clone()
    changed[0, 8] = (batch[0, 8] + 1) % CONFIG.vocab_size
    a, b = model(batch), model(changed)
    assert torch.equal(a[:, :8], b[:, :8])
    assert not torch.allclose(a[:, 8:], b[:, 8:], atol=1e-2)


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_padded_batch_equals_its_rows_alone(model: Decoder, side: str) -> None:
    rows = [ids(1, length, seed=length) for length in (4, 9, 13)]
    batch, mask = torch.zeros(3, 13, dtype=torch.long), torch.zeros(3, 13, dtype=torch.long)
    for i, row in enumerate(rows):
        place = slice(0, row.shape[1]) if side == "right" else slice(13 - row.shape[1], 13)
        batch[i, place], mask[i, place] = row[0], 1
    logits = model(batch, attention_mask=mask)
    assert logits.isfinite().all()
    for i, row in enumerate(rows):
        assert torch.allclose(logits[i][mask[i].bool()], model(row)[0], atol=1e-4)
    if side == "right":
        plain = model(batch)
        assert torch.allclose(plain[mask.bool()], logits[mask.bool()], atol=1e-4)


def test_padding_between_tokens_moves_nothing(model: Decoder) -> None:
    """As between a prompt and its text: positions count the tokens that are seen."""
    mask = torch.tensor([[1, 1, 0, 0, 0, 1, 1, 1], [1, 1, 1, 1, 1, 1, 1, 1]])
    batch = ids(2, 8)
    logits = model(batch, attention_mask=mask)
    assert torch.allclose(logits[0][mask[0].bool()], model(batch[:1, mask[0].bool()])[0], atol=1e-4)
    assert torch.allclose(logits[1], model(batch)[1], atol=1e-4)


def test_padding_on_the_left_matters_without_a_mask(model: Decoder) -> None:
    row = ids(1, 6)
    batch = torch.cat((torch.zeros(1, 4, dtype=torch.long), row), dim=1)
    assert not torch.allclose(model(batch)[:, 4:], model(row), atol=1e-2)


def test_grouped_queries_equal_full_attention_with_repeated_keys_and_values(model: Decoder) -> None:
    full = new_decoder(replace(CONFIG, num_key_value_heads=6))
    state = model.state_dict()
    for name, weight in state.items():
        if "k_proj" in name or "v_proj" in name:
            heads = weight.unflatten(0, (2, CONFIG.head_dim))
            state[name] = heads.repeat_interleave(3, dim=0).flatten(0, 1)
    full.load_state_dict(state)
    batch = ids(2, 11)
    assert torch.allclose(full(batch), model(batch), atol=1e-4)


@pytest.mark.parametrize("train", ["everything", "v_proj", "layers.2.mlp.up_proj"])
def test_checkpointing_gives_the_same_gradients(model: Decoder, train: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(train == "everything" or train in name)
    passes = []
    forward = Block.forward
    monkeypatch.setattr(Block, "forward", lambda self, *inputs: passes.append(self) or forward(self, *inputs))

    def gradients() -> dict[str, torch.Tensor]:
        model.zero_grad()
        model(ids(2, 12)).logsumexp(-1).sum().backward()
        return {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}

    plain = gradients()
    assert len(passes) == 3
    model.model.gradient_checkpointing = True
    checkpointed = gradients()
    assert len(passes) > 6  # once more in backward, at least where something trains
    assert plain.keys() == checkpointed.keys()
    assert plain.keys() == {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert all(torch.equal(plain[name], checkpointed[name]) for name in plain)
    assert any(gradient.abs().max() > 0 for gradient in plain.values())


def test_checkpointing_keeps_less(model: Decoder) -> None:
    def bytes_kept() -> int:
        kept = {}
        with torch.autograd.graph.saved_tensors_hooks(
            lambda t: kept.update({t.untyped_storage().data_ptr(): t.untyped_storage().nbytes()}) or t, lambda t: t
        ):
            loss = model(ids(4, 60)).sum()
        weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
        assert loss.requires_grad
        return sum(size for pointer, size in kept.items() if pointer not in weights)

    plain = bytes_kept()
    model.model.gradient_checkpointing = True
    assert bytes_kept() < plain / 3


def test_tied_embeddings_are_one_parameter(model: Decoder) -> None:
    for same in (model, copy.deepcopy(model), pickle.loads(pickle.dumps(model)), new_decoder().bfloat16()):
        assert same.lm_head.weight is same.model.embed_tokens.weight
    assert sum("embed" in name or "lm_head" in name for name, _ in model.named_parameters()) == 1
    untied = new_decoder(replace(CONFIG, tie_word_embeddings=False))
    assert untied.lm_head.weight is not untied.model.embed_tokens.weight


def test_a_new_decoder_is_fixed_by_the_seed() -> None:
    torch.manual_seed(3)
    a = Decoder(CONFIG)
    torch.manual_seed(3)
    b = Decoder(CONFIG)
    assert all(torch.equal(x, y) for x, y in zip(a.parameters(), b.parameters(), strict=True))
    assert a.lm_head.weight.std().item() == pytest.approx(CONFIG.initializer_range, rel=0.05)


def test_from_tensors_holds_what_it_is_given(model: Decoder) -> None:
    tensors = {name: tensor for name, tensor in model.state_dict().items() if name != "lm_head.weight"}
    again = Decoder.from_tensors(CONFIG, tensors)
    assert torch.equal(again(ids(1, 8)), model(ids(1, 8)))
    assert again.lm_head.weight is again.model.embed_tokens.weight
    assert not again.training and all(parameter.requires_grad for parameter in again.parameters())
    name = "model.layers.1.mlp.up_proj.weight"
    assert again.get_parameter(name).data_ptr() == tensors[name].data_ptr()
    assert Decoder.from_tensors(CONFIG, model.state_dict())(ids(1, 8)).shape == (1, 8, CONFIG.vocab_size)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("model.norm.weight"), "missing model.norm.weight"),
        (lambda t: t.update(extra=torch.zeros(1)), "unexpected extra"),
        (lambda t: t.update({"model.norm.weight": torch.zeros(5)}), r"model.norm.weight is \(5,\), expected \(96,\)"),
        (lambda t: t.pop("model.embed_tokens.weight"), "missing model.embed_tokens.weight"),
        (lambda t: t.update({"lm_head.weight": torch.zeros(101, 96)}), "differs from the embedding"),
    ],
)
def test_from_tensors_refuses_what_does_not_fit(model: Decoder, change, message: str) -> None:
    tensors = dict(model.state_dict())
    change(tensors)
    with pytest.raises(ValueError, match=message):
        Decoder.from_tensors(CONFIG, tensors)


def test_rotation_is_multiplication_by_a_complex_number() -> None:
    x = torch.randn(1, 1, 9, CONFIG.head_dim, dtype=torch.float64)
    cos, sin = rotary_angles(5, 14, CONFIG, x)
    half = CONFIG.head_dim // 2
    position = torch.arange(5, 14).double()[:, None]
    frequency = CONFIG.rope_theta ** (-2 * torch.arange(half).double() / CONFIG.head_dim)
    turned = torch.complex(x[..., :half], x[..., half:]) * torch.exp(1j * position * frequency)
    expected = torch.cat((turned.real, turned.imag), dim=-1)
    assert torch.allclose(rotate(x, cos, sin), expected, atol=1e-5)


def test_attention_scores_depend_on_distance_alone() -> None:
    q, k = torch.randn(2, 1, 1, 1, CONFIG.head_dim)

    def score(query_position: int, key_position: int) -> torch.Tensor:
        turned_q = rotate(q, *rotary_angles(query_position, query_position + 1, CONFIG, q))
        turned_k = rotate(k, *rotary_angles(key_position, key_position + 1, CONFIG, k))
        return (turned_q * turned_k).sum()

    assert score(9, 4).item() == pytest.approx(score(47, 42).item(), abs=1e-4)
    assert score(9, 4).item() != pytest.approx(score(9, 5).item(), abs=1e-2)


def test_generation_stops_at_the_end_token(model: Decoder) -> None:
    prompt = ids(3, 5)
    free = generate(model, prompt, 24)
    eos = int(free[0, 4])
    stopped = generate(model, prompt, 24, eos_id=eos)
    for row, whole in zip(stopped, free, strict=True):
        ends = (whole == eos).nonzero()
        length = int(ends[0]) + 1 if len(ends) else 24
        assert torch.equal(row[:length], whole[:length])
        assert (row[length:] == eos).all()
    assert generate(model, prompt[:1], 24, eos_id=eos).shape[1] == int((free[0] == eos).nonzero()[0]) + 1
    assert generate(model, prompt, 0).shape == (3, 0)


def test_sampling_is_fixed_by_its_seed_and_follows_the_probabilities(model: Decoder) -> None:
    prompt = ids(1, 5)
    torch.manual_seed(0)
    one = generate(model, prompt, 12, temperature=1.0, seed=7)
    torch.manual_seed(1)
    assert torch.equal(generate(model, prompt, 12, temperature=1.0, seed=7), one)
    assert not torch.equal(generate(model, prompt, 12, temperature=1.0, seed=8), one)
    assert torch.equal(generate(model, prompt, 12, temperature=1e-4), generate(model, prompt, 12))

    many = generate(model, prompt.expand(4000, -1), 1, temperature=2.0)
    expected = (model(prompt)[0, -1] / 2).softmax(-1)
    found = torch.bincount(many[:, 0], minlength=CONFIG.vocab_size) / 4000
    assert (found - expected).abs().max() < 4 * (0.25 / 4000) ** 0.5


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m: m(torch.tensor([1, 2])), r"\(batch, tokens\); got shape \(2,\)"),
        (lambda m: m(torch.tensor([[1, 101]])), "1 to 101; this model knows the ids 0 to 100"),
        (lambda m: m(ids(1, 65)), "65 tokens; this model takes at most 64"),
        (lambda m: generate(m, ids(1, 60), 10), "65 tokens; this model takes at most 64"),
        (lambda m: m(ids(1, 5), attention_mask=torch.ones(1, 4)), r"\(batch, 5\); got shape \(1, 4\)"),
        (lambda m: generate(m, ids(1, 5), 3, temperature=-1), "temperature"),
        (lambda m: replace(CONFIG, num_attention_heads=5), "hidden_size 96 does not split into 5 heads"),
        (lambda m: replace(CONFIG, num_key_value_heads=4), "6 query heads cannot share 4"),
    ],
)
def test_bad_input_is_named(model: Decoder, call, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call(model)
