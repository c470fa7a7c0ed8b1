"""Adapter files as they are met: cut off, of wrapped models, with heads, in odd types, for models without numbers."""

import copy
import json
import os
import pathlib
import re
import threading
import warnings
from collections.abc import Callable
from functools import partial

import peft
import pytest
import torch
from parity import decoders, perturb_either
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    DistilBertConfig,
    DistilBertForSequenceClassification,
)

from peft_lessons import (
    LoftQConfig,
    LoHaConfig,
    LoRAConfig,
    PiSSAConfig,
    adapters_disabled,
    inject,
    load_adapter,
    load_adapters,
    merge,
    save_adapter,
    trainable_parameters,
)
from peft_lessons.adapters import TrainedRows, TrainedWhole, named_adapters
from peft_lessons.checkpoints.files import read_config

CONFIG = LoRAConfig(rank=2, alpha=5, targets=("q", "v"))
STRONG = LoRAConfig(rank=3, alpha=9, targets=("q", "v"))
WEIGHTS, SETTINGS = "adapter_model.safetensors", "adapter_config.json"


def base() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.ModuleDict({"q": nn.Linear(6, 6), "v": nn.Linear(6, 6)}))[0]


def adapted(config: LoRAConfig = CONFIG, seed: int = 1) -> nn.Module:
    model, generator = inject(base(), config), torch.Generator().manual_seed(seed)
    for _, layer in named_adapters(model):
        for parameter in layer.parameters():
            if parameter.requires_grad:
                parameter.data += torch.randn(parameter.shape, generator=generator)
    return model


def outputs(model: nn.Module) -> torch.Tensor:
    return model["v"](model["q"](torch.linspace(-1, 1, 6)))


# A folder is the old adapter or the new one.


class Stopped(KeyboardInterrupt):
    pass


def stopping_at(monkeypatch, call: int, *, again: bool) -> list[str]:
    """Stop at the call of this number to what writes or moves files, and at all later ones if `again`."""
    calls: list[str] = []

    def watched(name: str, function: Callable) -> Callable:
        def wrapper(*arguments, **options):
            calls.append(name)
            if len(calls) == call or (again and len(calls) > call):
                raise Stopped(name)
            return function(*arguments, **options)

        return wrapper

    for home, name in (
        (os, "replace"),
        (os, "rename"),
        (pathlib.Path, "write_text"),
        (pathlib.Path, "chmod"),
        (pathlib.Path, "mkdir"),
        (pathlib.Path, "rmdir"),
    ):
        monkeypatch.setattr(home, name, watched(name, getattr(home, name)))
    monkeypatch.setattr("peft_lessons.checkpoints.files.save_file", watched("save_file", save_file))
    return calls


@pytest.mark.parametrize("again", [False, True], ids=["once", "for good"])
@pytest.mark.parametrize("call", range(1, 13))
def test_an_interrupted_save_leaves_the_old_adapter_or_the_new(tmp_path, monkeypatch, call: int, again: bool) -> None:
    old, new = adapted(), adapted(STRONG, seed=2)
    folder = save_adapter(old, CONFIG, tmp_path / "adapter")
    with monkeypatch.context() as patch:
        calls = stopping_at(patch, call, again=again)
        try:
            save_adapter(new, STRONG, folder)
            finished = True
        except Stopped:
            finished = False
    assert finished == (len(calls) < call)
    found = outputs(load_adapter(base(), folder))
    assert any(torch.equal(found, outputs(model)) for model in (old, new))
    assert read_config(folder) == (CONFIG if torch.equal(found, outputs(old)) else STRONG)
    assert not finished or torch.equal(found, outputs(new))
    if not again:  # then peft, too, finds one or the other
        ranks = {len(A) for name, A in load_file(folder / WEIGHTS).items() if "lora_A" in name}
        assert ranks == {json.loads((folder / SETTINGS).read_text())["r"]}
    save_adapter(new, STRONG, folder)
    assert torch.equal(outputs(load_adapter(base(), folder)), outputs(new))
    assert sorted(path.name for path in folder.iterdir() if ".unfinished-" not in path.name) == [SETTINGS, WEIGHTS]


def test_whoever_reads_while_another_writes_finds_one_or_the_other(tmp_path) -> None:
    models = [(adapted(), CONFIG), (adapted(STRONG, seed=2), STRONG)]
    folder, done = save_adapter(*models[0], tmp_path), threading.Event()

    def write() -> None:
        while not done.is_set():
            for model, config in models:
                save_adapter(model, config, folder)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        found = [outputs(load_adapter(base(), folder)) for _ in range(60)]
    finally:
        done.set()
        writer.join()
    possible = [outputs(model) for model, _ in models]
    assert all(any(torch.equal(one, other) for other in possible) for one in found)


def test_an_interrupted_first_save_leaves_no_folder(tmp_path, monkeypatch) -> None:
    with monkeypatch.context() as patch:
        stopping_at(patch, 2, again=False)
        with pytest.raises(Stopped):
            save_adapter(adapted(), CONFIG, tmp_path / "adapter")
    assert not (tmp_path / "adapter").exists()


def test_other_files_of_the_folder_stay(tmp_path) -> None:
    (tmp_path / "README.md").write_text("mine")
    save_adapter(adapted(), CONFIG, save_adapter(adapted(STRONG), STRONG, tmp_path))
    assert sorted(os.listdir(tmp_path)) == ["README.md", SETTINGS, WEIGHTS]
    assert (tmp_path / WEIGHTS).stat().st_mode & 0o777 == 0o644


# A failed load leaves the model as it was.


def state(model: nn.Module) -> list[tuple]:
    return [
        *((name, id(module)) for name, module in model.named_modules()),
        *((name, id(p), p.requires_grad, p.sum().item()) for name, p in model.named_parameters()),
    ]


BOTH = {"rank": 2, "targets": ("q", "v")}


@pytest.mark.parametrize("config", [CONFIG, PiSSAConfig(**BOTH), LoftQConfig(**BOTH)], ids=["LoRA", "PiSSA", "LoftQ"])
@pytest.mark.parametrize("how", ["NaN", "missing", "unexpected", "shape", "no file"])
def test_a_failed_load_leaves_the_model_as_it_was(config, how: str, tmp_path) -> None:
    folder = save_adapter(adapted(config), config, tmp_path)
    tensors, name = load_file(folder / WEIGHTS), "base_model.model.v.lora_B.weight"
    match how:
        case "NaN":
            tensors[name][0, 0] = float("nan")
        case "missing":
            del tensors[name]
        case "unexpected":
            tensors[name + "s"] = tensors[name].clone()
        case "shape":
            tensors[name] = tensors[name].T.contiguous()
    save_file(tensors, folder / WEIGHTS)
    if how == "no file":
        (folder / WEIGHTS).unlink()
    model = base()
    model["q"].requires_grad_(False)
    before = state(model)
    for load in (load_adapter, lambda model, folder: load_adapters(model, {"one": folder})):
        with pytest.raises((ValueError, FileNotFoundError)):
            load(model, folder)
        assert state(model) == before


def test_a_model_without_numbers_takes_no_adapter(tmp_path) -> None:
    folder = save_adapter(adapted(), CONFIG, tmp_path)
    with torch.device("meta"):
        model = base()
    with pytest.raises(ValueError, match="q is on the meta device, which holds no numbers: load the model's weights"):
        load_adapter(model, folder)
    with pytest.raises(ValueError, match=r"q\.lora_A\.weight is on the meta device.*: nothing is written"):
        save_adapter(inject(model, CONFIG), CONFIG, tmp_path / "new")
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_numbers_that_are_not_finite_are_not_saved(value: float, tmp_path) -> None:
    old, model = adapted(), adapted(STRONG)
    folder = save_adapter(old, CONFIG, tmp_path)
    with torch.no_grad():
        model["v"].lora_B[1, 1] = value
    with pytest.raises(ValueError, match=r"v\.lora_B\.weight holds numbers that are not finite.*: nothing is written"):
        save_adapter(model, STRONG, folder)
    assert torch.equal(outputs(load_adapter(base(), folder)), outputs(old))


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        (
            re.compile("Q|v", re.IGNORECASE),
            r"targets: flags are not saved; write them into the pattern, such as '\(\?i\)Q",
        ),
        (re.compile("(q)+|v"), "targets must be a regular expression .* none of a group"),
    ],
)
def test_patterns_that_could_not_be_read_are_not_saved(pattern, message: str, tmp_path) -> None:
    config = LoRAConfig(rank=2, targets=pattern)
    with pytest.raises(ValueError, match=message):
        save_adapter(adapted(config), config, tmp_path / "new")
    assert not (tmp_path / "new").exists()


# Types of numbers.


@pytest.mark.parametrize(
    "dtype", [torch.float8_e4m3fn, torch.float8_e5m2, torch.float16, torch.bfloat16, torch.float64]
)
def test_every_floating_type_is_read(dtype: torch.dtype, tmp_path) -> None:
    folder = save_adapter(adapted(), CONFIG, tmp_path)
    tensors = {name: tensor.to(dtype) for name, tensor in load_file(folder / WEIGHTS).items()}
    save_file(tensors, folder / WEIGHTS)
    loaded = load_adapter(base(), folder)
    assert torch.equal(loaded["q"].lora_A, tensors["base_model.model.q.lora_A.weight"].float())
    assert loaded["q"].lora_A.dtype == torch.float32


@pytest.mark.parametrize("dtype", [torch.int8, torch.bool, torch.complex64, torch.float8_e4m3fn])
def test_other_types_are_refused(dtype: torch.dtype, tmp_path) -> None:
    folder = save_adapter(adapted(), CONFIG, tmp_path)
    tensors, name = load_file(folder / WEIGHTS), "base_model.model.q.lora_B.weight"
    tensors[name] = (
        torch.full((6, 2), float("nan")).to(dtype) if dtype.is_floating_point else torch.ones(6, 2).to(dtype)
    )
    save_file(tensors, folder / WEIGHTS)
    with pytest.raises(ValueError, match=r"q\.lora_B\.weight holds numbers that are not finite, or no numbers"):
        load_adapter(base(), folder)


# Names of wrapped models, as training scripts leave them.

PREFIXES = {
    "compile": lambda name: name.replace("base_model.model.", "base_model.model._orig_mod."),
    "compile outside": lambda name: f"_orig_mod.{name}",
    "DDP": lambda name: name.replace("base_model.model.", "base_model.model.module."),
    "DDP outside": lambda name: f"module.{name}",
    "FSDP": lambda name: name.replace("base_model.model.", "base_model.model._fsdp_wrapped_module."),
    "checkpointing": lambda name: name.replace(".lora_", "._checkpoint_wrapped_module.lora_"),
}


@pytest.mark.parametrize("renamed", PREFIXES.values(), ids=PREFIXES)
def test_names_of_wrapped_models_are_understood(renamed: Callable[[str], str], tmp_path) -> None:
    model = adapted()
    folder = save_adapter(model, CONFIG, tmp_path)
    tensors = load_file(folder / WEIGHTS)
    save_file({renamed(name): tensor for name, tensor in tensors.items()}, folder / WEIGHTS)
    assert torch.equal(outputs(load_adapter(base(), folder)), outputs(model))
    name = "base_model.model.q.lora_A.weight"
    save_file(tensors | {renamed(name): tensors[name].clone()}, folder / WEIGHTS)
    with pytest.raises(ValueError, match=r"q\.lora_A\.weight is there twice"):
        load_adapter(base(), folder)


# What a base's own tensors do in a file.


def test_the_bases_own_weight_may_lie_there(tmp_path) -> None:
    """Peft stores it beside an adapted embedding or head."""
    model = adapted()
    folder = save_adapter(model, CONFIG, tmp_path)
    tensors = load_file(folder / WEIGHTS)
    for name in ("q.base_layer.weight", "q.weight"):
        mine = base()["q"].weight.detach().clone()
        save_file(tensors | {f"base_model.model.{name}": mine}, folder / WEIGHTS)
        assert torch.equal(outputs(load_adapter(base(), folder)), outputs(model))
        save_file(tensors | {f"base_model.model.{name}": mine + 1e-3}, folder / WEIGHTS)
        with pytest.raises(ValueError, match=rf"{name} is \(6, 6\) and differs from the base's \(6, 6\)"):
            load_adapter(base(), folder)


# Heads.


def sequence_classifier(kind: str) -> nn.Module:
    torch.manual_seed(0)
    if kind == "bert":
        sizes = {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 20, "num_hidden_layers": 1}
        return BertForSequenceClassification(BertConfig(vocab_size=30, num_labels=3, **sizes)).eval()
    return DistilBertForSequenceClassification(
        DistilBertConfig(vocab_size=30, num_labels=3, dim=16, n_heads=2, hidden_dim=20, n_layers=1)
    ).eval()


@pytest.mark.parametrize(
    ("kind", "targets", "whole"),
    [
        ("bert", ["query", "value"], ["classifier"]),
        ("bert", "all-linear", ["classifier"]),
        ("distilbert", ["q_lin", "v_lin"], ["pre_classifier", "classifier"]),  # peft compares ends of names, not parts
    ],
)
def test_a_sequence_classifier(kind: str, targets, whole: list[str], tmp_path) -> None:
    """Peft's SEQ_CLS: its file lists heads that this model has not, and the head trains beside LoRA."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = peft.get_peft_model(
            sequence_classifier(kind), peft.LoraConfig(task_type="SEQ_CLS", r=2, target_modules=targets)
        ).eval()
    perturb_either(theirs)
    theirs.save_pretrained(tmp_path / "theirs")
    assert json.loads((tmp_path / "theirs" / SETTINGS).read_text())["modules_to_save"] == ["classifier", "score"]
    ids = torch.arange(12).view(2, 6)
    expected = theirs(ids).logits
    mine = load_adapter(sequence_classifier(kind), tmp_path / "theirs").eval()
    assert [name for name, layer in named_adapters(mine) if isinstance(layer, TrainedWhole)] == whole
    torch.testing.assert_close(mine(ids).logits, expected, rtol=0, atol=1e-5)
    for model in (theirs, mine):
        model(ids).logits.square().sum().backward()
    torch.testing.assert_close(
        mine.classifier.trained.weight.grad, theirs.base_model.model.classifier.modules_to_save.default.weight.grad
    )
    config = read_config(tmp_path / "theirs")
    save_adapter(mine, config, tmp_path / "ours")
    assert load_file(tmp_path / "ours" / WEIGHTS).keys() == load_file(tmp_path / "theirs" / WEIGHTS).keys()
    again = peft.PeftModel.from_pretrained(sequence_classifier(kind), tmp_path / "ours").eval()
    torch.testing.assert_close(again(ids).logits, expected, rtol=0, atol=1e-5)


def test_a_head_with_buffers(tmp_path) -> None:
    """BatchNorm's running means are saved as peft saves them, its count of batches too."""

    def model() -> nn.Module:
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(6, 4), nn.BatchNorm1d(4))

    theirs = peft.get_peft_model(model(), peft.LoraConfig(r=2, target_modules=["0"], modules_to_save=["1"])).train()
    theirs(torch.randn(8, 6))
    theirs.save_pretrained(tmp_path / "theirs")
    mine = load_adapter(model(), tmp_path / "theirs").eval()
    x = torch.randn(5, 6)
    torch.testing.assert_close(mine(x), theirs.eval()(x))
    assert mine[1].trained.num_batches_tracked == 1
    save_adapter(mine, read_config(tmp_path / "theirs"), tmp_path / "ours")
    first, second = (load_file(tmp_path / whose / WEIGHTS) for whose in ("theirs", "ours"))
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("left", [[], ["classifier"]])
def test_a_head_that_is_not_in_the_file_is_missed(left: list[str], tmp_path) -> None:
    config = LoRAConfig(rank=2, targets=("query",), modules_to_save=("classifier", "pooler"))
    folder = save_adapter(inject(sequence_classifier("bert"), config), config, tmp_path)
    tensors = load_file(folder / WEIGHTS)
    for name in list(tensors):
        if "lora_" not in name and not any(module in name for module in left):
            del tensors[name]
    save_file(tensors, folder / WEIGHTS)
    message = (
        r"missing pooler, which modules_to_save names" if left else r"none of the modules that modules_to_save names"
    )
    with pytest.raises(ValueError, match=message):
        load_adapter(sequence_classifier("bert"), folder)


def test_the_weight_of_a_layer_is_a_parameter_too(tmp_path) -> None:
    """Peft's `target_parameters` on what is a linear layer."""
    config = peft.LoraConfig(r=2, target_modules=["q"], target_parameters=["v.weight"])
    theirs = peft.get_peft_model(Biased(True, norm_bias=True), config)
    perturb_either(theirs)
    theirs.save_pretrained(tmp_path)
    x = torch.randn(3, 6)
    torch.testing.assert_close(load_adapter(Biased(True, norm_bias=True), tmp_path)(x), theirs(x))
    settings = json.loads((tmp_path / SETTINGS).read_text())
    (tmp_path / SETTINGS).write_text(json.dumps(settings | {"target_parameters": ["experts.gate_up_proj"]}))
    with pytest.raises(ValueError, match=r"no parameter ends with 'experts.gate_up_proj'; this model has 'q.weight'"):
        load_adapter(Biased(True, norm_bias=True), tmp_path)


def test_what_trains_beside_the_adapters_is_told_how_to_be_saved(tmp_path) -> None:
    model = adapted(LoRAConfig(rank=2, targets=("q",)))
    model["v"].requires_grad_(True)
    with pytest.raises(ValueError, match=r"these train too: v\.weight, v\.bias; .*modules_to_save"):
        save_adapter(model, LoRAConfig(rank=2, targets=("q",)), tmp_path)


# Rows of an embedding.


def decoder(tied: bool, dtype: torch.dtype = torch.float32) -> tuple[nn.Module, nn.Module]:
    """A small language model here and in transformers, whose head has the embedding's weight, or a copy of it."""
    mine, reference = decoders()
    reference.config.tie_word_embeddings = tied
    for model in (mine, reference):
        weight = model.model.embed_tokens.weight
        model.lm_head.weight = weight if tied else nn.Parameter(weight.detach().clone())
    return mine.to(dtype), reference.to(dtype).eval()


TOKENS = (3, 60, 7)


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("named", [False, True])
def test_tokens_that_train(tied: bool, named: bool, tmp_path) -> None:
    """New tokens beside LoRA, with a head that is tied to the embedding or not: as in peft, there and back."""
    indices = {"embed_tokens": list(TOKENS)} if named else list(TOKENS)
    config = peft.LoraConfig(r=2, target_modules=["q_proj"], trainable_token_indices=indices)
    theirs = peft.get_peft_model(decoder(tied)[1], config)
    perturb_either(theirs)
    theirs.save_pretrained(tmp_path / "theirs")
    ids = torch.tensor([[3, 1, 60, 7, 3], [2, 4, 5, 6, 9]])
    mine = load_adapter(decoder(tied)[0], tmp_path / "theirs")
    expected = theirs(ids).logits
    close = partial(torch.testing.assert_close, rtol=0, atol=1e-5 * expected.abs().max().item())
    close(mine(ids), expected)
    mine(ids).square().mean().backward()
    expected.square().mean().backward()
    (delta,) = (p for name, p in theirs.named_parameters() if "trainable_tokens_delta" in name and p.requires_grad)
    torch.testing.assert_close(
        mine.model.embed_tokens.rows.grad, delta.grad, rtol=0, atol=1e-5 * delta.grad.abs().max()
    )
    assert isinstance(mine.lm_head, TrainedRows) == tied
    save_adapter(mine, read_config(tmp_path / "theirs"), tmp_path / "ours")
    assert load_file(tmp_path / "ours" / WEIGHTS).keys() == load_file(tmp_path / "theirs" / WEIGHTS).keys()
    again = peft.PeftModel.from_pretrained(decoder(tied)[1], tmp_path / "ours")
    close(again(ids).logits, expected)
    with adapters_disabled(mine):
        assert torch.equal(mine(ids), decoder(tied)[0](ids))
    merge(mine)
    assert (type(mine.model.embed_tokens), type(mine.lm_head)) == (nn.Embedding, nn.Linear)
    close(mine(ids), expected)


def test_only_the_rows_train_and_start_as_they_are() -> None:
    model, _ = decoder(tied=True, dtype=torch.bfloat16)
    ids = torch.tensor([[3, 1, 60]])
    before = model(ids)
    inject(model, LoRAConfig(rank=2, targets=("q_proj",), trainable_tokens={"embed_tokens": TOKENS}))
    assert torch.equal(model(ids), before)
    assert {tuple(p.shape) for p in trainable_parameters(model) if len(p) == 3} == {(3, 48)}
    assert model.model.embed_tokens.rows.dtype == torch.float32
    assert model.lm_head.rows is model.model.embed_tokens.rows
    assert torch.equal(copy.deepcopy(model)(ids), before)


@pytest.mark.parametrize(
    ("tokens", "error", "message"),
    [
        ({"embed_tokens": (61,)}, ValueError, r"embed_tokens: trainable_tokens must be different numbers below 61"),
        ({"embed_tokens": (1, 1)}, ValueError, "must be different numbers below 61, got"),
        ({"embed_tokens": (-1,)}, ValueError, "must be different numbers below 61, got"),
        ({"norm": (1,)}, TypeError, "norm: only rows of a plain nn.Embedding train, got RMSNorm"),
        ({"wte": (1,)}, ValueError, "no module ends with 'wte'; this model has 'model'"),
    ],
)
def test_tokens_that_are_not_there(tokens, error, message: str) -> None:
    model = decoder(tied=False)[0]
    with pytest.raises(error, match=message):
        inject(model, LoRAConfig(rank=2, targets=("q_proj",), trainable_tokens=tokens))
    assert all(parameter.requires_grad for parameter in model.parameters())


class Biased(nn.Module):
    def __init__(self, bias: bool, norm_bias: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.q, self.norm, self.v = (
            nn.Linear(6, 6, bias=bias),
            nn.LayerNorm(6, bias=norm_bias),
            nn.Linear(6, 6, bias=False),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.v(self.norm(self.q(x)))


# Random matrices that are drawn again.


def test_veras_shared_pair_may_be_left_out(tmp_path) -> None:
    config = peft.VeraConfig(r=4, target_modules=["q", "v"], projection_prng_key=3, save_projection=False)
    theirs = peft.get_peft_model(Biased(True, norm_bias=True), config)
    perturb_either(theirs)
    theirs.save_pretrained(tmp_path)
    assert not any("vera_A" in name for name in load_file(tmp_path / WEIGHTS))
    mine, x = load_adapter(Biased(True, norm_bias=True), tmp_path), torch.randn(3, 6)
    torch.testing.assert_close(mine(x), theirs(x))
    settings = json.loads((tmp_path / SETTINGS).read_text())
    del settings["save_projection"]
    for other in (settings, settings | {"save_projection": True}):
        (tmp_path / SETTINGS).write_text(json.dumps(other))
        with pytest.raises(ValueError, match=r"missing base_model\.vera_A; missing base_model\.vera_B"):
            load_adapter(Biased(True, norm_bias=True), tmp_path)


# Ranks that make no sense to train, but are there.


@pytest.mark.parametrize("config", [LoRAConfig(rank=9, targets=("q",)), LoHaConfig(rank=9, targets=("q",))])
def test_a_rank_above_the_matrix_is_read_but_not_made(config, tmp_path) -> None:
    with pytest.raises(ValueError, match=r"q: rank 9 is above min\(in, out\) = 6"):
        inject(base(), config)
    peft_config = {LoRAConfig: peft.LoraConfig, LoHaConfig: peft.LoHaConfig}[type(config)]
    theirs = peft.get_peft_model(copy.deepcopy(base()), peft_config(r=9, target_modules=["q"]))
    perturb_either(theirs)
    theirs.save_pretrained(tmp_path)
    mine, x = load_adapter(base(), tmp_path), torch.randn(3, 6)
    torch.testing.assert_close(mine["q"](x), theirs.base_model.model["q"](x))


def test_pissa_needs_as_many_singular_vectors(tmp_path) -> None:
    config = PiSSAConfig(rank=2, targets=("q", "v"))
    folder = save_adapter(adapted(config), config, tmp_path)
    tensors = {n: torch.zeros(7, 6) if "lora_A" in n else torch.zeros(6, 7) for n in load_file(folder / WEIGHTS)}
    save_file(tensors, folder / WEIGHTS)
    settings = json.loads((folder / SETTINGS).read_text())
    (folder / SETTINGS).write_text(json.dumps(settings | {"r": 7}))
    with pytest.raises(ValueError, match=r"q: rank 7 is above min\(in, out\) = 6"):
        load_adapter(base(), folder)
