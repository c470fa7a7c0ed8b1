"""Several adapters on one base, against each of them alone and against peft."""

import copy
import re
import warnings
from functools import partial

import peft
import pytest
import torch
from contract import METHODS, network, perturb, sample
from method_cases import NEEDS_DENSE, READS_IDS
from parity import decoders, inputs, outputs, perturb_either
from torch import nn

from peft_lessons import (
    DoRAConfig,
    LoRAConfig,
    SerialAdapterConfig,
    SeveralAdapters,
    SeveralConfig,
    adapters_disabled,
    add_adapter,
    combine,
    concatenate,
    inject,
    load_adapter,
    load_adapters,
    merge,
    remove_adapter,
    remove_adapters,
    save_adapter,
    save_named_adapter,
    trainable_parameters,
    using,
)
from peft_lessons.adapters import named_adapters
from peft_lessons.methods.combining import METHODS as FACTORS
from peft_lessons.methods.combining import OF_UPDATES
from peft_lessons.training import language_model_loss

# other ranks, scalings and targets
LORAS = {
    "red": LoRAConfig(rank=4, alpha=12, targets=("q_proj", "v_proj")),
    "blue": LoRAConfig(rank=2, alpha=3, rank_stabilized=True, targets=("v_proj", "down_proj")),
}
ROWS = ("blue", None, "red")  # for the three samples of `inputs`


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """An adapter in each of two folders."""
    made = {}
    for seed, (name, config) in enumerate(LORAS.items()):
        model = inject(decoders()[0], config)
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for _, layer in named_adapters(model):
                layer.lora_B.normal_(generator=generator, std=0.3)
        made[name] = save_adapter(model, config, tmp_path_factory.mktemp(name))
    return made


def alone(folders, name: str | None) -> nn.Module:
    model, _ = decoders()
    return model if name is None else load_adapter(model, folders[name]).eval()


@pytest.fixture
def both(folders) -> nn.Module:
    return load_adapters(decoders()[0], folders).eval()


def close(actual: torch.Tensor, expected: torch.Tensor, bound: float = 2e-6) -> None:
    torch.testing.assert_close(actual, expected, rtol=0, atol=bound * expected.abs().max().item())


def test_switching(both, folders) -> None:
    ids = inputs("decoder")
    seen = []
    for name in ("red", "blue", None, "red"):
        with using(both, name):
            seen.append(both(ids))
            assert torch.equal(seen[-1], alone(folders, name)(ids))
    assert not torch.allclose(seen[0], seen[1], atol=0.1)
    assert torch.equal(both(ids), alone(folders, None)(ids)), "outside the context the base computes"


def test_contexts_nest_and_restore(both, folders) -> None:
    ids = inputs("decoder")
    expected = alone(folders, "red")(ids)
    with using(both, "red"):
        with using(both, "blue"), pytest.raises(RuntimeError, match="stop"):
            with adapters_disabled(both):
                assert torch.equal(both(ids), alone(folders, None)(ids))
            raise RuntimeError("stop")
        assert torch.equal(both(ids), expected)


def test_each_sample_its_own(both, folders) -> None:
    ids = inputs("decoder")
    with using(both, ROWS):
        mixed = both(ids)
    for row, name in enumerate(ROWS):
        close(mixed[row : row + 1], alone(folders, name)(ids[row : row + 1]))


def test_a_mixed_batch_trains_each_adapter_on_its_own_samples(both, folders) -> None:
    ids = inputs("decoder")
    with using(both, ROWS):
        both(ids).square().sum().backward()
    gradients = {
        (path, name): layer.get(name).lora_B.grad for path, layer in named_adapters(both) for name in layer.names
    }
    for row, name in enumerate(ROWS):
        if name is None:
            continue
        model = alone(folders, name)
        model(ids[row : row + 1]).square().sum().backward()
        for path, layer in named_adapters(model):
            close(gradients[path, name], layer.lora_B.grad, 1e-5)


def test_a_mixed_batch_goes_with_checkpointing(both) -> None:
    """Blocks are then called one by one in backward, and still know whose rows they read."""
    gradients = []
    for checkpointing in (False, True):
        both.model.gradient_checkpointing = checkpointing
        both.zero_grad()
        with using(both.train(), ROWS):
            both(inputs("decoder")).square().mean().backward()
        gradients.append([p.grad.clone() for p in trainable_parameters(both)])
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))


def test_a_mixed_batch_equals_pefts(both, folders) -> None:
    _, base = decoders()
    theirs = peft.PeftModel.from_pretrained(base, folders["red"], adapter_name="red")
    theirs.load_adapter(folders["blue"], adapter_name="blue")
    ids = inputs("decoder")
    with using(both, ROWS), torch.no_grad():
        mixed = both(ids)
        reference = theirs.eval()(ids, adapter_names=[name or "__base__" for name in ROWS]).logits
    close(mixed, reference, 5e-6)


WEIGHTS = {"red": 0.75, "blue": -0.5}


def test_a_weighted_sum_is_the_sum_of_the_updates(both, folders) -> None:
    """In each layer W + Σ wᵢ ΔWᵢ, with ΔWᵢ = sᵢBᵢAᵢ written out here."""
    expected, _ = decoders()
    for name, weight in WEIGHTS.items():
        for path, layer in named_adapters(alone(folders, name)):
            update = layer.scaling * layer.lora_B @ layer.lora_A
            expected.get_submodule(path).weight.data += weight * update
    ids = inputs("decoder")
    with using(both, WEIGHTS):
        close(both(ids), expected(ids), 5e-6)


def test_concatenation_is_the_weighted_sum(both, folders, tmp_path) -> None:
    ids = inputs("decoder")
    with using(both, WEIGHTS):
        expected = both(ids)
    one, config = concatenate(copy.deepcopy(both), WEIGHTS)
    assert config.rank == 6
    assert config.scaling == 1
    close(one(ids), expected, 5e-6)
    save_adapter(one, config, tmp_path)
    close(load_adapter(decoders()[0], tmp_path).eval()(ids), expected, 5e-6)
    reference = peft.PeftModel.from_pretrained(decoders()[1], tmp_path).eval()
    close(outputs(reference, ids), expected, 5e-6)
    close(merge(one)(ids), expected, 5e-6)


def test_concatenation_equals_pefts(tmp_path) -> None:
    _, base = decoders()
    names = ["q_proj", "down_proj"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = peft.get_peft_model(
            base, peft.LoraConfig(r=4, lora_alpha=12, target_modules=names), adapter_name="red"
        )
        theirs.add_adapter("blue", peft.LoraConfig(r=2, lora_alpha=3, target_modules=names))
        theirs.base_model.set_adapter(["red", "blue"])
        perturb_either(theirs)
        theirs.save_pretrained(tmp_path)
        theirs.add_weighted_adapter(["red", "blue"], [0.75, 0.5], "sum", combination_type="cat")
    theirs.set_adapter("sum")
    ours = load_adapters(decoders()[0], {"red": tmp_path / "red", "blue": tmp_path / "blue"})
    ids = inputs("decoder")
    one, _ = concatenate(ours, {"red": 0.75, "blue": 0.5})
    close(one.eval()(ids), outputs(theirs.eval(), ids), 5e-6)


@pytest.mark.parametrize("method", [name for name in METHODS if name not in NEEDS_DENSE])
def test_every_method_beside_another(method: str) -> None:
    """Two adapters of a method on one base: each as it is alone, and in a mixed batch where a method can be."""
    config, x = METHODS[method], sample(method)
    several = perturb(inject(network(method, "nf4"), SeveralConfig(adapters={"red": config, "blue": config})))
    with using(several, "red"):
        red = several(x)
    with using(several, "blue"):
        blue = several(x)
    assert not torch.allclose(red, blue, atol=1e-3)
    base = network(method, "nf4")(x)
    assert torch.equal(several(x), base)
    with using(several, ["red", "blue", None, "blue", "red"]):
        if method in READS_IDS:
            with pytest.raises(TypeError, match="used alone"):
                several(x, attention_mask=None)
        else:
            close(several(x), torch.stack((red[0], blue[1], base[2], blue[3], red[4])))


def test_what_goes_wrong_is_said(both, folders, tmp_path) -> None:
    ids = inputs("decoder")
    with (
        pytest.raises(ValueError, match=r"no adapter is called 'green'; this model has \['red', 'blue'\]"),
        using(both, "green"),
    ):
        pass
    with pytest.raises(ValueError, match=r"no adapter is called 'green'"), using(both, {"red": 1.0, "green": 1.0}):
        pass
    with using(both, ["red"]), pytest.raises(ValueError, match="a batch of 3 samples needs as many names, got 1"):
        both(ids)
    with pytest.raises(TypeError, match="several adapters cannot be folded into a plain layer: concatenate"):
        merge(both)
    with (
        pytest.raises(ValueError, match="the model has not several adapters: load_adapters"),
        using(alone(folders, "red"), "red"),
    ):
        pass
    with pytest.raises(ValueError, match="adapters needs at least one name"):
        SeveralConfig(adapters={})
    with pytest.raises(ValueError, match=r"saved one by one: save_named_adapter\(model, name"):
        save_adapter(both, LORAS["red"], tmp_path)


def test_only_plain_lora_is_concatenated() -> None:
    configs = {"red": LoRAConfig(rank=2, targets=("q_proj",)), "blue": DoRAConfig(rank=2, targets=("q_proj",))}
    model = inject(decoders()[0], SeveralConfig(adapters=configs))
    with pytest.raises(TypeError, match="only plain LoRA can be concatenated, 'blue' is a DoRAConfig"):
        concatenate(model, {"red": 1.0, "blue": 1.0})
    assert any(isinstance(layer, SeveralAdapters) for _, layer in named_adapters(model)), "the model was changed"


def test_a_folder_that_does_not_fit_leaves_the_model_as_it_was(folders, tmp_path) -> None:
    other = nn.ModuleDict({"q_proj": nn.Linear(6, 6), "v_proj": nn.Linear(6, 6)})
    save_adapter(
        inject(other, LoRAConfig(rank=4, targets=("q_proj", "v_proj"))),
        LoRAConfig(rank=4, targets=("q_proj", "v_proj")),
        tmp_path,
    )
    model, _ = decoders()
    with pytest.raises(ValueError, match=r"odd: these weights do not fit this model: .*missing"):
        load_adapters(model, {"red": folders["red"], "odd": tmp_path})
    assert not list(named_adapters(model))
    assert not any("base_layer" in name for name, _ in model.named_modules())


def test_taking_them_out_gives_the_base_back(both, folders) -> None:
    ids = inputs("decoder")
    assert torch.equal(remove_adapters(both)(ids), alone(folders, None)(ids))
    assert not any("base_layer" in name for name, _ in both.named_modules())


# --------------------------------------------------------------------------------------------------- one more, one less


def test_a_third_adapter_is_added_and_one_is_taken_out(both, folders) -> None:
    ids = inputs("decoder")
    expected = {name: alone(folders, name)(ids) for name in ("red", "blue", None)}
    with using(both, "red"):  # what is in use stays in use
        add_adapter(both, "green", LoRAConfig(rank=3, targets=("gate_proj", "v_proj")))
        assert torch.equal(both(ids), expected["red"])
        with pytest.raises(ValueError, match="'red' is in use: leave `using` first"):
            remove_adapter(both, "red")
    assert list(next(named_adapters(both))[1].config.adapters) == ["red", "blue", "green"]
    for name in expected:
        with using(both, name):
            assert torch.equal(both(ids), expected[name])
    with using(both, "green"):
        assert torch.equal(both(ids), expected[None]), "a new LoRA starts as the base"
    remove_adapter(both, "blue")
    with (
        pytest.raises(ValueError, match=r"no adapter is called 'blue'; this model has \['red', 'green'\]"),
        using(both, "blue"),
    ):
        pass
    assert not isinstance(both.model.layers[0].mlp.down_proj, SeveralAdapters), "only blue was there"
    with using(both, "red"):
        assert torch.equal(both(ids), expected["red"])
    add_adapter(both, "blue", folders["blue"])
    with using(both, ROWS):
        mixed = both(ids)
    for row, name in enumerate(ROWS):
        close(mixed[row : row + 1], expected[name][row : row + 1])
    for name in ("red", "blue", "green"):
        remove_adapter(both, name)
    assert not list(named_adapters(both)) and torch.equal(both(ids), expected[None])


def test_adapters_are_added_to_a_plain_model_too(folders) -> None:
    model = add_adapter(decoders()[0].eval(), "red", folders["red"])
    load_adapters(model, {"blue": folders["blue"]})
    ids = inputs("decoder")
    for name in ("red", "blue"):
        with using(model, name):
            assert torch.equal(model(ids), alone(folders, name)(ids))


@pytest.mark.parametrize(
    ("name", "adapter", "message"),
    [
        ("red", LoRAConfig(rank=2), "the model has an adapter called 'red' already; it has"),
        ("green", LoRAConfig(rank=200, targets=("k_proj",)), "rank 200 is above"),
        ("green", LoRAConfig(rank=2, targets=("q_prj",)), "no module ends with 'q_prj'"),
        ("green", SerialAdapterConfig(bottleneck=2, targets=("self_attn",)), "q_proj lies inside of .*self_attn"),
    ],
)
def test_one_that_cannot_be_added_leaves_all_as_it_was(both, folders, name, adapter, message) -> None:
    ids, before = inputs("decoder"), dict(named_adapters(both))
    with pytest.raises(ValueError, match=message):
        add_adapter(both, name, adapter)
    assert dict(named_adapters(both)) == before
    with using(both, "red"):
        assert torch.equal(both(ids), alone(folders, "red")(ids))


def test_one_trains_while_the_others_rest_and_is_saved(both, folders, tmp_path) -> None:
    ids = inputs("decoder")
    state = {name: alone(folders, name)(ids) for name in LORAS}
    everything = len(trainable_parameters(both))
    with using(both, "red"):
        with using(both, "blue"):
            assert {id(p) for p in trainable_parameters(both)} == parameters_of(both, "blue")
        assert {id(p) for p in trainable_parameters(both)} == parameters_of(both, "red")
        optimizer = torch.optim.AdamW(trainable_parameters(both), lr=0.05, weight_decay=0.5)
        both(ids).square().mean().backward()
        optimizer.step()
        trained = both(ids)
        save_named_adapter(both, "red", tmp_path / "red")
    assert len(trainable_parameters(both)) == everything
    assert not torch.allclose(trained, state["red"], atol=1e-2)
    with using(both, "blue"):
        assert torch.equal(both(ids), state["blue"])
    save_named_adapter(both, "blue", tmp_path / "blue")
    assert isinstance(dict(named_adapters(both))["model.layers.0.self_attn.q_proj"], SeveralAdapters)
    assert torch.equal(load_adapter(decoders()[0], tmp_path / "red").eval()(ids), trained)
    theirs = peft.PeftModel.from_pretrained(decoders()[1], tmp_path / "blue").eval()
    close(outputs(theirs, ids), state["blue"], 5e-6)
    with pytest.raises(ValueError, match="no adapter is called 'green'"):
        save_named_adapter(both, "green", tmp_path)


def parameters_of(model: nn.Module, name: str) -> set[int]:
    layers = [layer for _, layer in named_adapters(model) if name in layer.names]
    return {id(p) for layer in layers for part in ("lora_A", "lora_B") for p in [getattr(layer.get(name), part)]}


# ------------------------------------------------------------------------------------------- which row is which sample


@pytest.mark.parametrize(
    "how",
    [{"num_beams": 2}, {"num_beams": 3, "num_return_sequences": 2}, {"do_sample": True, "num_return_sequences": 2}],
)
def test_generation_with_more_rows_than_texts(folders, how) -> None:
    """Beams and samples of transformers' own model: each text with its adapter, as if it were alone."""
    names = ["blue", None, "red"]
    model = load_adapters(decoders()[1], folders)
    ids = inputs("decoder")
    options = {
        "max_new_tokens": 6,
        "pad_token_id": 0,
        "eos_token_id": None,
        "attention_mask": torch.ones_like(ids),
        **how,
    }
    if "do_sample" in how:
        options |= {"top_k": 1}
    with using(model, names):
        together = model.generate(ids, **options)
    each = how.get("num_return_sequences", 1)
    for row, name in enumerate(names):
        with using(model, name):
            single = model.generate(ids[row : row + 1], **options | {"attention_mask": torch.ones_like(ids[:1])})
        assert torch.equal(together[each * row : each * (row + 1)], single)


HEADS = {"red": LoRAConfig(rank=4, targets=("lm_head", "q_proj")), "blue": LoRAConfig(rank=2, targets=("lm_head",))}


def test_the_head_of_a_mixed_batch_is_never_anothers() -> None:
    """Row 10: a loss reads single tokens, of which nobody can say whose they are."""
    model = perturb(inject(decoders()[0], SeveralConfig(adapters=HEADS))).eval()
    ids = inputs("decoder")
    names = ["red", "blue", "blue"]
    expected = []
    for row, name in enumerate(names):
        with using(model, name):
            expected.append(model(ids[row : row + 1]))
    with using(model, names):
        close(model(ids), torch.cat(expected))
        hidden = model.model(ids)
        close(model.lm_head(hidden.flatten(0, 1)), torch.cat(expected).flatten(0, 1))  # all tokens are told apart
        for count in (1, 3, 5, 6):
            with pytest.raises(ValueError, match=f"{count} rows of a batch of 3 × 7 cannot be told apart by sample"):
                model.lm_head(hidden.flatten(0, 1)[:count])
        labels = ids.masked_fill(torch.arange(7) < 6, -100)  # one scored token a sample: as many as there are names
        with pytest.raises(ValueError, match="cannot be told apart by sample"):
            language_model_loss(model, ids, labels)


def test_names_that_do_not_fit_the_batch_are_refused(both) -> None:
    ids = inputs("decoder")
    for names in (["red", "blue"], ["red"] * 4):
        with (
            using(both, names),
            pytest.raises(ValueError, match=f"a batch of 3 samples needs as many names, got {len(names)}"),
        ):
            both(ids)
    with pytest.raises(ValueError, match="the list of names is empty"), using(both, []):
        pass


def test_no_hook_is_left_behind(both) -> None:
    with using(both, ROWS), using(both, {"red": 1.0}), using(both, list(reversed(ROWS))):
        both(inputs("decoder"))
    with pytest.raises(ValueError, match="needs as many names"), using(both, ["red"] * 2):
        both(inputs("decoder"))
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in both.modules())


# -------------------------------------------------------------------------------------- one adapter of several, as peft


def pefts_and_ours(tmp_path, monkeypatch, method: str, ranks: tuple[int, int], **options):
    """Outputs of peft's `add_weighted_adapter` and of ours, with the same seed where entries are drawn."""
    names = ["q_proj", "down_proj"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = peft.get_peft_model(
            decoders()[1], peft.LoraConfig(r=ranks[0], lora_alpha=12, target_modules=names), adapter_name="red"
        )
        theirs.add_adapter("blue", peft.LoraConfig(r=ranks[1], lora_alpha=3, use_rslora=True, target_modules=names))
        theirs.base_model.set_adapter(["red", "blue"])
        perturb_either(theirs)
        theirs.save_pretrained(tmp_path)
        make = theirs.base_model.inject_adapter
        # a new adapter's start draws numbers first
        monkeypatch.setattr(theirs.base_model, "inject_adapter", lambda *a, **k: (make(*a, **k), torch.manual_seed(5)))
        new = {"svd_rank": options["rank"]} if "rank" in options else {}
        theirs.add_weighted_adapter(
            ["red", "blue"], [0.75, -0.5], "one", combination_type=method, density=options.get("density"), **new
        )
    theirs.set_adapter("one")
    ours = load_adapters(decoders()[0], {name: tmp_path / name for name in ("red", "blue")})
    one, config = combine(ours, {"red": 0.75, "blue": -0.5}, method, seed=5, **options)
    return outputs(theirs.eval(), inputs("decoder")), one.eval(), config


@pytest.mark.parametrize("method", FACTORS)
@pytest.mark.parametrize("density", [0.4, 0.9])
def test_factors_are_combined_as_in_peft(method: str, density: float, tmp_path, monkeypatch) -> None:
    expected, ours, config = pefts_and_ours(tmp_path, monkeypatch, method, (4, 4), density=density)
    close(ours(inputs("decoder")), expected, 5e-6)
    assert (config.rank, config.scaling) == (4, 1)


@pytest.mark.parametrize("method", OF_UPDATES)
@pytest.mark.parametrize("rank", [3, 6])
def test_updates_are_combined_as_in_peft(method: str, rank: int, tmp_path, monkeypatch) -> None:
    expected, ours, config = pefts_and_ours(tmp_path, monkeypatch, method, (4, 2), density=0.6, rank=rank)
    close(ours(inputs("decoder")), expected, 2e-5)  # two decompositions
    assert config.rank == rank


def test_the_decomposition_of_the_sum_at_full_rank_is_the_sum(both) -> None:
    ids = inputs("decoder")
    with using(both, WEIGHTS):
        expected = both(ids)
    one, _ = combine(both, WEIGHTS, "svd", rank=6)
    close(one(ids), expected, 2e-5)


def test_a_seed_decides_which_entries_are_dropped() -> None:
    configs = {name: LoRAConfig(rank=2, targets=("q_proj",)) for name in ("red", "blue")}
    model = perturb(inject(decoders()[0], SeveralConfig(adapters=configs)))
    one, _ = combine(copy.deepcopy(model), {"red": 1.0, "blue": 1.0}, "dare_ties", density=0.5, seed=1)
    torch.manual_seed(99)
    again, _ = combine(copy.deepcopy(model), {"red": 1.0, "blue": 1.0}, "dare_ties", density=0.5, seed=1)
    other, _ = combine(model, {"red": 1.0, "blue": 1.0}, "dare_ties", density=0.5, seed=2)
    ids = inputs("decoder")
    assert torch.equal(one(ids), again(ids)) and not torch.equal(one(ids), other(ids))


@pytest.mark.parametrize(
    ("method", "options", "message"),
    [
        ("mean", {}, "method is 'mean'; possible: linear, .*ties_svd.*concatenate"),
        ("ties", {"density": 0}, "density is the share of entries that stay, in .0, 1.; got 0"),
        ("ties", {"density": 1.5}, "got 1.5"),
        ("linear", {}, r"linear needs adapters of one rank, got \[4, 2\]; possible: svd"),
        ("linear", {"rank": 3}, "rank is for the methods svd, .*; linear keeps the adapters' own"),
        ("svd", {"rank": 0}, "rank must be at least 1, got 0"),
        ("svd", {"rank": 1000}, "rank 1000 is above"),
    ],
)
def test_what_cannot_be_combined_is_named(both, method: str, options, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        combine(both, WEIGHTS, method, **options)
    with using(both, "red"):
        both(inputs("decoder"))


def test_ranks_that_differ_from_layer_to_layer_add_up(tmp_path) -> None:
    """The sum has the largest ranks of each, and is the weighted sum as before; a head that trains cannot be added."""
    ids = inputs("decoder")
    configs = {
        "red": LoRAConfig(rank=2, targets=("q_proj", "v_proj"), rank_pattern={"v_proj": 5}, alpha_pattern={"1.*": 3}),
        "blue": LoRAConfig(rank=3, targets=re.compile(r".*\.0\..*(v|down)_proj")),
    }
    model = perturb(inject(decoders()[0], SeveralConfig(adapters=configs)))
    weights = {"red": 0.5, "blue": -0.25}
    with using(model, weights):
        expected = model(ids)
    one, config = concatenate(model, weights)
    assert config.rank == 8
    close(one(ids), expected, 1e-5)
    close(load_adapter(decoders()[0], save_adapter(one, config, tmp_path))(ids), expected, 1e-5)
    configs["red"] = LoRAConfig(rank=2, modules_to_save=("lm_head",))
    with pytest.raises(TypeError, match="linear layers can be added up, 'red' has a TrainedWhole at lm_head"):
        concatenate(inject(decoders()[0], SeveralConfig(adapters=configs)), weights)


# -------------------------------------------------------------------------------- what is not a linear layer, heads


class Pictures(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv1d(6, 8, 3), nn.Linear(8, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.conv(x).mean(-1))


def test_convolutions_and_heads_have_several_adapters_too(tmp_path) -> None:
    x = torch.randn(3, 6, 7, generator=torch.Generator().manual_seed(1))
    configs = {
        "red": LoRAConfig(rank=2, targets=("conv",), modules_to_save=("head",)),
        "blue": DoRAConfig(rank=3, targets=("conv", "head")),
    }
    expected = {None: pictures()(x)}
    for name, config in configs.items():
        model = perturb(inject(pictures(), config)).eval()
        save_adapter(model, config, tmp_path / name)
        expected[name] = model(x)
    model = load_adapters(pictures(), {name: tmp_path / name for name in configs}).eval()
    for name in (*configs, None):
        with using(model, name):
            assert torch.equal(model(x), expected[name])
    save_named_adapter(model, "red", tmp_path / "again")
    assert torch.equal(load_adapter(pictures(), tmp_path / "again").eval()(x), expected["red"])
    remove_adapter(model, "red")
    assert type(model.head) is SeveralAdapters and model.head.names == ("blue",)


def pictures() -> Pictures:
    torch.manual_seed(0)
    return Pictures()


def test_updates_of_other_modules_are_not_lost_in_a_sum() -> None:
    configs = {name: LoRAConfig(rank=2, targets=("conv", "head")) for name in ("red", "blue")}
    model = inject(pictures(), SeveralConfig(adapters=configs))
    for one in (concatenate, partial(combine, method="ties")):
        with pytest.raises(TypeError, match="linear layers can be added up, 'red' has a LoRAConv at conv"):
            one(model, {"red": 1.0, "blue": 1.0})
    assert len(list(named_adapters(model))) == 2


def test_an_adapter_that_does_not_fit_freezes_nothing() -> None:
    model = pictures()
    with pytest.raises(ValueError, match=r"green: head: rank 5 is above min\(in, out\) = 4"):
        add_adapter(model, "green", LoRAConfig(rank=5, targets=("head",)))
    assert all(parameter.requires_grad for parameter in model.parameters())
    add_adapter(model, "red", LoRAConfig(rank=2, targets=("head",)))
    with pytest.raises(ValueError, match="green: no module ends with 'w'"):
        add_adapter(model, "green", LoRAConfig(rank=2, targets=("w",)))
    assert len(trainable_parameters(model)) == 2
