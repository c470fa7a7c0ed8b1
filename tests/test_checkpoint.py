"""Adapters on disk: what is refused, and that files are written whole or not at all."""

import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from peft_lessons import AdaLoRAConfig, LoRAConfig, OFTConfig, inject, load_adapter, save_adapter
from peft_lessons.adapters import named_adapters
from peft_lessons.checkpoints.files import read_config

CONFIG = LoRAConfig(rank=2, alpha=5, targets=("q", "v"))


def base() -> nn.ModuleDict:
    torch.manual_seed(0)
    return nn.ModuleDict({"q": nn.Linear(6, 6), "v": nn.Linear(6, 4)})


@pytest.fixture
def folder(tmp_path):
    return save_adapter(inject(base(), CONFIG), CONFIG, tmp_path / "deep" / "adapter", base_model="a-base")


def test_layout(folder) -> None:
    assert sorted(path.name for path in folder.iterdir()) == ["adapter_config.json", "adapter_model.safetensors"]
    assert {name: tuple(t.shape) for name, t in load_file(folder / "adapter_model.safetensors").items()} == {
        "base_model.model.q.lora_A.weight": (2, 6),
        "base_model.model.q.lora_B.weight": (6, 2),
        "base_model.model.v.lora_A.weight": (2, 6),
        "base_model.model.v.lora_B.weight": (4, 2),
    }
    settings = json.loads((folder / "adapter_config.json").read_text())
    assert (settings["r"], settings["lora_alpha"], settings["base_model_name_or_path"]) == (2, 5, "a-base")


def edit_config(folder, **changes) -> None:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"peft_type": "POLY"}, "describes 'POLY'; supported: 'LORA', 'ADALORA', 'VERA'"),
        ({"peft_type": "LOHA"}, "not supported here: lora_alpha=5, "),
        ({"use_dora": True}, "missing q.lora_magnitude_vector; missing v.lora_magnitude_vector"),
        ({"use_dora": True, "init_lora_weights": "pissa"}, "not supported here: init_lora_weights='pissa'"),
        ({"bias": "all"}, "not supported here: bias='all'"),
        ({"rank_pattern": {"q": 3}}, r"q.lora_A.weight is \(2, 6\), expected \(3, 6\)"),
        ({"rank_pattern": {"q": "3"}}, "rank_pattern must be an object of names and whole numbers, got {'q': '3'}"),
        ({"rank_pattern": {"w": 3}}, "rank_pattern names 'w', which is none of q, v"),
        ({"rank_pattern": {"q": 10**9}}, r"rank_pattern\['q'\] is 1,000,000,000, but no tensor"),
        ({"target_modules": "q"}, "unexpected v.lora_A"),
        (
            {"target_modules": "w|x"},
            r"the regular expression 'w\|x' matches no module's whole name; this model",
        ),
        ({"target_modules": "("}, r"target_modules must be a list of names or a regular expression \(missing \)"),
        (
            {"target_modules": r"(\w+\.?)+!"},
            "must be a regular expression of at most 2,000 characters, with at most 6 repetitions, none of a g",
        ),
        ({"exclude_modules": "q" * 3000}, "exclude_modules must be a regular expression of at most 2,000 characters"),
        ({"rank_pattern": {r"(\w*)*!": 2}}, "rank_pattern must be a regular expression of at most 2,000 characters"),
        ({"alpha_pattern": {f"q{i}": 2 for i in range(5)}}, "alpha_pattern has 5 entries for 4 tensors"),
        ({"target_modules": None}, "target_modules must be a list of names, got None"),
        ({"exclude_modules": ["q", "v"]}, "nothing is left to adapt: 'q', 'v' are meant by targets"),
        ({"layers_to_transform": [0]}, r"no target lies in layers \[0\]; they lie in \[\]"),
        ({"layers_to_transform": "0"}, "layers_to_transform must be a list of whole numbers, got '0'"),
        ({"modules_to_save": 3}, "modules_to_save must be a list of names, got 3"),
        ({"target_modules": ["q", "w"]}, "no module ends with 'w'; this model has 'q', 'v'"),
        ({"r": 3}, r"q.lora_A.weight is \(2, 6\), expected \(3, 6\)"),
        ({"target_modules": ["q"]}, "unexpected v.lora_A"),
        ({"r": 0}, "adapter_config.json: rank must be at least 1"),
        ({"r": "2"}, "adapter_config.json: r must be a whole number, got '2'"),
        ({"r": 2.0}, "adapter_config.json: r must be a whole number, got 2.0"),
        ({"lora_alpha": "5"}, "adapter_config.json: lora_alpha must be a number, got '5'"),
        ({"lora_dropout": None}, "adapter_config.json: lora_dropout must be a number, got None"),
        ({"use_rslora": "yes"}, "adapter_config.json: use_rslora must be true or false, got 'yes'"),
        ({"target_modules": ["q", 1]}, r"adapter_config.json: target_modules must be a list of names, got \['q', 1\]"),
        ({"target_modules": []}, "adapter_config.json: targets is empty"),
        ({"init_lora_weights": "pissa_niter_4"}, "not supported here: init_lora_weights='pissa_niter_4'"),
        ({"init_lora_weights": "loftq"}, "loftq_config must hold loftq_iter, codebook, values, block_size, double"),
        (
            {"lora_bias": True, "layer_replication": [[0, 2]]},
            r"layer_replication=\[\[0, 2\]\] \(the base itself has another depth",
        ),
        ({"of_a_later_release": 1}, "not supported here: of_a_later_release=1"),
    ],
)
def test_settings_that_do_not_fit(folder, changes: dict, message: str) -> None:
    edit_config(folder, **changes)
    model = base()
    with pytest.raises(ValueError, match=message):
        load_adapter(model, folder)
    assert not list(named_adapters(model)), "a failed load left adapters behind"


def test_settings_that_change_nothing(folder) -> None:
    edit_config(folder, init_lora_weights="gaussian", megatron_core="megatron.core", revision="main", use_dora=False)
    assert read_config(folder) == CONFIG


def test_an_older_file_lacks_what_was_added_since(folder) -> None:
    path = folder / "adapter_config.json"
    settings = json.loads(path.read_text())
    del settings["lora_dropout"], settings["use_rslora"]
    path.write_text(json.dumps(settings))
    assert read_config(folder) == CONFIG


def test_missing_settings_are_named(folder) -> None:
    path = folder / "adapter_config.json"
    path.write_text('{"peft_type": "LORA", "target_modules": ["q", "v"]}')
    with pytest.raises(ValueError, match=r"adapter_config\.json: r is missing; lora_alpha is missing"):
        load_adapter(base(), folder)
    path.write_text('["LORA"]')
    with pytest.raises(ValueError, match=r"adapter_config\.json must hold a JSON object, got \['LORA'\]"):
        load_adapter(base(), folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"alpha": 6}, r"q was made by LoRAConfig\(alpha=5\), not by LoRAConfig\(alpha=6\)"),
        ({"rank_stabilized": True}, r"\(rank_stabilized=False\), not by LoRAConfig\(rank_stabilized=True\)"),
        ({"targets": ("q",)}, r"\(targets=\('q', 'v'\)\), not by LoRAConfig\(targets=\('q',\)\)"),
    ],
)
def test_saving_with_another_config_is_refused(tmp_path, change: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        save_adapter(inject(base(), CONFIG), replace(CONFIG, **change), tmp_path)
    assert not list(tmp_path.iterdir())


def test_missing_weights_are_listed(folder) -> None:
    path = folder / "adapter_model.safetensors"
    tensors = load_file(path)
    del tensors["base_model.model.v.lora_B.weight"]
    save_file(tensors, path)
    with pytest.raises(ValueError, match=r"missing v\.lora_B"):
        load_adapter(base(), folder)


def test_damaged_and_missing_files(folder) -> None:
    weights = folder / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:40])
    with pytest.raises(ValueError, match="not a readable safetensors file"):
        load_adapter(base(), folder)
    weights.rename(folder / "adapter_model.bin")
    with pytest.raises(FileNotFoundError, match="only safetensors are read, never pickled"):
        load_adapter(base(), folder)
    (folder / "adapter_config.json").write_text("{")
    with pytest.raises(ValueError, match="not readable JSON"):
        load_adapter(base(), folder)
    with pytest.raises(FileNotFoundError, match=r"holds no adapter_config\.json"):
        load_adapter(base(), folder / "elsewhere")


def test_a_failed_save_keeps_the_old_files(folder, monkeypatch) -> None:
    before = {path.name: path.read_bytes() for path in folder.iterdir()}

    def half_a_file(tensors, path, metadata) -> None:
        path.write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr("peft_lessons.checkpoints.files.save_file", half_a_file)
    with pytest.raises(OSError, match="disk full"):
        save_adapter(inject(base(), CONFIG), CONFIG, folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_saving_refuses_what_does_not_belong_together(tmp_path) -> None:
    with pytest.raises(ValueError, match="nothing to save"):
        save_adapter(base(), CONFIG, tmp_path)
    with pytest.raises(ValueError, match=r"q was made by LoRAConfig\(rank=2\), not by LoRAConfig\(rank=3\)"):
        save_adapter(inject(base(), CONFIG), LoRAConfig(rank=3, alpha=5, targets=("q", "v")), tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["v.bias", "q.base_layer.weight"])
def test_what_trains_is_what_is_saved(tmp_path, name: str) -> None:
    model = inject(base(), LoRAConfig(rank=2, targets=("q",)))
    model.get_parameter(name).requires_grad_()
    with pytest.raises(ValueError, match=rf"only adapters are saved, but these train too: {name}"):
        save_adapter(model, LoRAConfig(rank=2, targets=("q",)), tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_shared_adapter_is_saved_and_loaded(tmp_path) -> None:
    def shared() -> nn.ModuleDict:
        model = base()
        model["twin"] = model["q"]
        return model

    model = inject(shared(), CONFIG)
    nn.init.normal_(model["q"].lora_B)
    loaded = load_adapter(shared(), save_adapter(model, CONFIG, tmp_path))
    assert loaded["twin"] is loaded["q"]
    assert torch.equal(loaded["twin"].lora_B, model["q"].lora_B)


def test_the_order_of_targets_says_nothing(tmp_path) -> None:
    model = inject(base(), CONFIG)
    save_adapter(model, replace(CONFIG, targets=("v", "q")), tmp_path)
    load_adapter(base(), tmp_path)


def test_a_shared_adapter_may_lie_there_under_one_of_its_names(tmp_path) -> None:
    """As peft saves it."""

    def shared() -> nn.ModuleDict:
        model = base()
        model["twin"] = model["q"]
        return model

    config = replace(CONFIG, targets=("q", "twin", "v"))
    model = inject(shared(), config)
    nn.init.normal_(model["q"].lora_B)
    path = save_adapter(model, config, tmp_path) / "adapter_model.safetensors"
    save_file({name: tensor for name, tensor in load_file(path).items() if ".twin." not in name}, path)
    loaded = load_adapter(shared(), tmp_path)
    assert torch.equal(loaded["twin"].lora_B, model["q"].lora_B)


@pytest.mark.parametrize(
    "tensor", [torch.full((6, 2), float("nan")), torch.zeros(6, 2, dtype=torch.int64)], ids=["NaN", "integers"]
)
def test_only_finite_numbers_are_loaded(folder, tensor: torch.Tensor) -> None:
    path = folder / "adapter_model.safetensors"
    save_file(load_file(path) | {"base_model.model.q.lora_B.weight": tensor}, path)
    model = base()
    with pytest.raises(ValueError, match=r"q\.lora_B\.weight holds numbers that are not finite, or no"):
        load_adapter(model, folder)
    assert not list(named_adapters(model))


@pytest.mark.parametrize("value", [[1], "abc", {"q": [True]}, {"q": [1, 0]}, {"q": [True] * 20_000}])
def test_a_rank_pattern_must_fit(tmp_path, value: object) -> None:
    config = AdaLoRAConfig(rank=2, target_rank=1, targets=("q", "v"))
    save_adapter(inject(base(), config), config, tmp_path)
    edit_config(tmp_path, rank_pattern=value)
    with pytest.raises(ValueError, match="rank_pattern must map names to lists of 2 values true or false"):
        load_adapter(base(), tmp_path)


def test_oft_without_its_series_is_exact_however_that_is_said(tmp_path) -> None:
    config = OFTConfig(block_size=2, targets=("q", "v"))
    save_adapter(inject(base(), config), config, tmp_path)
    for no in (False, None, 0):
        edit_config(tmp_path, use_cayley_neumann=no)
        assert read_config(tmp_path) == config


def test_absurd_files_are_refused_cleanly(folder) -> None:
    edit_config(folder, lora_alpha=10**400)
    with pytest.raises(ValueError, match=r"adapter_config\.json"):
        load_adapter(base(), folder)
    (folder / "adapter_config.json").write_text("[" * 100_000)
    with pytest.raises(ValueError, match="not readable JSON"):
        load_adapter(base(), folder)
