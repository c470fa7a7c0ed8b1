"""Several adapters on one base, against each of them alone and against peft."""

import copy
import re
import warnings

import peft
import pytest
import torch
from contract import METHODS, NEEDS_DENSE, READS_IDS, network, sample, stir
from parity import decoders, disturb, inputs, outputs
from torch import nn

from peft_lessons import (
    DoRAConfig,
    LoRAConfig,
    SeveralAdapters,
    SeveralConfig,
    adapters_disabled,
    concatenate,
    inject,
    load_adapter,
    load_adapters,
    merge,
    remove_adapters,
    save_adapter,
    using,
)
from peft_lessons.adapters import named_adapters

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
        disturb(theirs)
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
    several = stir(inject(network(method, "nf4"), SeveralConfig(adapters={"red": config, "blue": config})))
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
    with pytest.raises(ValueError, match=r"made by SeveralConfig\("):
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


def test_ranks_that_differ_from_layer_to_layer_add_up(tmp_path) -> None:
    """The sum has the largest ranks of each, and is the weighted sum as before; a head that trains cannot be added."""
    ids = inputs("decoder")
    configs = {
        "red": LoRAConfig(rank=2, targets=("q_proj", "v_proj"), rank_pattern={"v_proj": 5}, alpha_pattern={"1.*": 3}),
        "blue": LoRAConfig(rank=3, targets=re.compile(r".*\.0\..*(v|down)_proj")),
    }
    model = stir(inject(decoders()[0], SeveralConfig(adapters=configs)))
    weights = {"red": 0.5, "blue": -0.25}
    with using(model, weights):
        expected = model(ids)
    one, config = concatenate(model, weights)
    assert config.rank == 8
    close(one(ids), expected, 1e-5)
    close(load_adapter(decoders()[0], save_adapter(one, config, tmp_path))(ids), expected, 1e-5)
    configs["red"] = LoRAConfig(rank=2, modules_to_save=("lm_head",))
    with pytest.raises(TypeError, match=r"'red' trains \('lm_head',\) as a whole, and only plain LoRA can be added up"):
        concatenate(inject(decoders()[0], SeveralConfig(adapters=configs)), weights)
