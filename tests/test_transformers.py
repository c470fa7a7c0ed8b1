"""Every method on nine kinds of transformers' models, as docs/transformers.md has it, and the lines of that page."""

import ast
import re
import warnings
from dataclasses import replace
from pathlib import Path

import peft
import pytest
import torch
import transformers
from contract import perturb
from method_cases import NOT_FOLDABLE, STARTS_ELSEWHERE
from parity import perturb_either
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from torch import nn
from transformers_models import KINDS, REFUSED, batch, logits, loss, model

from peft_lessons import (
    ALL_LINEAR,
    LoRAConfig,
    LoRAExperts,
    LoRALinear,
    SerialAdapterConfig,
    adapters_disabled,
    inject,
    load_adapter,
    merge,
    quantize_model,
    save_adapter,
    trainable_parameters,
)
from peft_lessons.adapters import named_adapters
from peft_lessons.bases import is_quantized
from peft_lessons.training import train
from tools.artifacts import transformers_table

PAGE = Path(__file__).resolve().parents[1] / "docs" / "transformers.md"
DECODERS = [kind for kind, one in KINDS.items() if one.inputs == "text"]
LORA = LoRAConfig(rank=2, alpha=6)

transformers.logging.set_verbosity_error()


def learn(adapted: nn.Module, kind: str, steps: int = 2) -> None:
    train(adapted, [batch(kind)] * steps, steps=steps, learning_rate=0.05, loss=loss(kind), bar=iter)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("method", transformers_table.ROWS)
def test_a_method_works_or_is_refused(kind: str, method: str, tmp_path) -> None:
    """It starts as the base, trains, is saved, loaded and merged; or nothing has happened."""
    config, mine = KINDS[kind].config(transformers_table.ROWS[method]), model(kind)
    before = logits(mine, kind)
    if reason := REFUSED.get((method, kind)):
        with pytest.raises(TypeError, match=re.escape(reason)):
            inject(mine, config)
        assert torch.equal(logits(mine, kind), before)
        return
    inject(mine, config)
    if method not in STARTS_ELSEWHERE:
        assert torch.equal(logits(mine, kind), before)
    with warnings.catch_warnings(action="error"):  # of what trains and gets no gradient
        learn(mine, kind)
    learnt = logits(mine, kind)
    assert not torch.allclose(learnt, before, atol=1e-3)
    if method != "loftq":  # whose base is another
        with adapters_disabled(mine):
            assert torch.equal(logits(mine, kind), before)
    save_adapter(mine, config, tmp_path)
    again = load_adapter(model(kind), tmp_path)
    torch.testing.assert_close(logits(again, kind), learnt)
    if method in NOT_FOLDABLE:
        with pytest.raises(TypeError, match="cannot be folded"):
            merge(again)
        return
    kinds = {name: type(module) for name, module in model(kind).named_modules()}
    merge(again)
    assert {name: type(module) for name, module in again.named_modules()} == kinds
    torch.testing.assert_close(logits(again, kind), learnt, rtol=1e-4, atol=1e-5)


def test_the_page_has_the_tables() -> None:
    assert transformers_table.with_tables(PAGE.read_text(encoding="utf-8")) == PAGE.read_text(encoding="utf-8")


# The lines of the page.


def lines(heading: str) -> str:
    """Return the code under a heading of the page."""
    (found,) = re.findall(rf"^## {heading}\n.*?```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.M | re.S)
    return found


def run(code: str, kind: str, folder: Path, monkeypatch) -> dict:
    """Run lines where `my_model` is a tiny model of a kind, and has a tokenizer if it reads text."""
    model(kind).save_pretrained(folder / "my_model")
    if KINDS[kind].inputs != "images with a label":
        words = Tokenizer(WordLevel({word: i for i, word in enumerate(["pad", "unk", "end", *"abcdefgh"])}, "unk"))
        words.pre_tokenizer = Whitespace()
        transformers.PreTrainedTokenizerFast(tokenizer_object=words, pad_token="pad", eos_token="end").save_pretrained(
            folder / "my_model"
        )
    monkeypatch.chdir(folder)
    names: dict = {}
    exec(compile(code, str(PAGE), "exec"), names)
    return names


@pytest.mark.parametrize("kind", DECODERS)
def test_twelve_lines(kind: str, tmp_path, monkeypatch, capsys) -> None:
    code = lines("Twelve lines")
    imports = r"^(import|from) .*\n"
    assert len([line for line in re.sub(imports, "", code, flags=re.M).splitlines() if line.strip()]) == 12
    names = run(code, kind, tmp_path, monkeypatch)
    assert capsys.readouterr().out.strip()
    assert not list(named_adapters(names["model"]))
    learnt = load_adapter(model(kind), tmp_path / "my_adapter")
    assert len(trainable_parameters(learnt)) >= 8
    inputs = {name: names["batch"][name] for name in ("input_ids", "attention_mask")}
    with torch.no_grad():
        expected = learnt(**inputs).logits
        torch.testing.assert_close(names["model"](**inputs).logits, expected, rtol=1e-4, atol=1e-5)
        assert not torch.allclose(expected, model(kind)(**inputs).logits, atol=1e-4)


@pytest.mark.parametrize(
    ("heading", "kind"), [("A new head", "BERT"), ("Images", "ViT"), ("Encoder and decoder", "T5")]
)
def test_lines_for_other_models(heading: str, kind: str, tmp_path, monkeypatch) -> None:
    names = run(lines(heading), kind, tmp_path, monkeypatch)
    before, after = names["history"].losses[0], names["history"].losses[-1]
    assert after < before
    assert (tmp_path / "my_adapter").is_dir()
    whole = {name for name, layer in named_adapters(names["model"]) if not isinstance(layer, LoRALinear)}
    assert whole == set(KINDS[kind].head)


# Places, beside peft.


@pytest.mark.parametrize("kind", KINDS)
def test_all_linear_and_its_file_are_those_of_peft(kind: str, tmp_path) -> None:
    """Of a block of experts peft takes stacks and router, too; here these stay as they are."""
    one = KINDS[kind]
    mine = perturb(inject(model(kind), one.config(LORA)))
    save_adapter(mine, one.config(LORA), tmp_path / "ours")
    with warnings.catch_warnings(action="ignore"):
        theirs = peft.PeftModel.from_pretrained(model(kind), tmp_path / "ours").eval()
        torch.testing.assert_close(logits(mine, kind), logits(theirs, kind), rtol=0, atol=1e-5)
        task = {"text": "CAUSAL_LM", "two texts": "SEQ_2_SEQ_LM", "text with a label": "SEQ_CLS"}.get(one.inputs)
        where = ["q_proj", "k_proj", "v_proj", "o_proj"] if kind == "Qwen3-MoE" else "all-linear"
        head = list(one.head) or None
        reference = peft.get_peft_model(
            model(kind), peft.LoraConfig(r=2, lora_alpha=6, target_modules=where, modules_to_save=head, task_type=task)
        ).eval()
    assert {name for name, layer in named_adapters(mine) if isinstance(layer, LoRALinear)} == {
        name.removeprefix("base_model.model.")
        for name, module in reference.named_modules()
        if isinstance(module, peft.tuners.lora.LoraLayer)
    }
    perturb_either(reference)
    reference.save_pretrained(tmp_path / "theirs")
    back = load_adapter(model(kind), tmp_path / "theirs")
    torch.testing.assert_close(logits(back, kind), logits(reference, kind), rtol=0, atol=1e-5)
    if one.inputs == "two texts":
        inputs = {"input_ids": batch(kind)["input_ids"], "max_new_tokens": 5, "do_sample": False}
        assert torch.equal(theirs.generate(**inputs), mine.generate(**inputs))


def test_a_masked_language_model_is_none_that_generates(tmp_path) -> None:
    def roberta() -> nn.Module:
        torch.manual_seed(0)
        sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 24}
        return transformers.RobertaForMaskedLM(transformers.RobertaConfig(vocab_size=40, **sizes)).eval()

    config, ids = LoRAConfig(rank=2, targets=("query", "value")), torch.tensor([[0, 5, 7, 2]])
    mine = perturb(inject(roberta(), config))
    save_adapter(mine, config, tmp_path)
    theirs = peft.PeftModel.from_pretrained(roberta(), tmp_path)
    torch.testing.assert_close(mine(ids).logits, theirs(ids).logits, rtol=0, atol=1e-5)


def test_routers_and_stacks_of_experts_are_no_linear_layers() -> None:
    base = model("Qwen3-MoE")
    inject(base, LoRAConfig(rank=2, targets=ALL_LINEAR))
    assert not [name for name, _ in named_adapters(base) if ".mlp" in name]
    for target, found in (("gate", "Qwen3MoeTopKRouter"), ("experts", "Qwen3MoeExperts")):
        with pytest.raises(TypeError, match=rf"mlp\.{target}: LoRALinear adapts linear layers, got {found}"):
            inject(model("Qwen3-MoE"), LoRAConfig(rank=2, targets=(target,)))


def test_routers_and_stacks_of_experts_are_adapted_by_their_parameters(tmp_path) -> None:
    named = re.findall(r'`target_parameters=\((.*?)\)`, and `(".*?")`', PAGE.read_text(encoding="utf-8"), re.S)
    parameters = ast.literal_eval(", ".join(*named))
    config = LoRAConfig(rank=2, targets=ALL_LINEAR, target_parameters=parameters)
    mine = inject(model("Qwen3-MoE"), config)
    adapted = {name for name, layer in named_adapters(mine) if isinstance(layer, LoRAExperts)}
    assert adapted == {f"model.layers.{layer}.mlp.{part}" for layer in range(2) for part in ("experts", "gate")}
    learn(mine, "Qwen3-MoE")
    again = load_adapter(model("Qwen3-MoE"), save_adapter(mine, config, tmp_path))
    torch.testing.assert_close(logits(again, "Qwen3-MoE"), logits(mine, "Qwen3-MoE"))
    torch.testing.assert_close(logits(merge(again), "Qwen3-MoE"), logits(mine, "Qwen3-MoE"), rtol=1e-4, atol=1e-5)


def test_patches_of_images_are_a_convolution(tmp_path) -> None:
    config = LoRAConfig(rank=2, targets=("projection", "q_proj"), modules_to_save=("classifier",))
    mine = inject(model("ViT"), config)
    learn(mine, "ViT")
    save_adapter(mine, config, tmp_path)
    merged = merge(load_adapter(model("ViT"), tmp_path))
    torch.testing.assert_close(logits(merged, "ViT"), logits(mine, "ViT"), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["Gemma 3", "GPT-2", "T5"])
def test_a_tied_head_that_trains_leaves_the_embedding(kind: str, tmp_path) -> None:
    """Also in the checkpoint that transformers writes of the merged model, and reads again."""
    config = LoRAConfig(rank=2, targets=ALL_LINEAR, modules_to_save=("lm_head",))
    mine, base = inject(model(kind), config), model(kind)
    learn(mine, kind)
    merged = merge(mine)
    assert torch.equal(merged.get_input_embeddings().weight, base.get_input_embeddings().weight)
    assert not torch.equal(merged.lm_head.weight, base.lm_head.weight)
    merged.save_pretrained(tmp_path)
    torch.testing.assert_close(logits(type(base).from_pretrained(tmp_path), kind), logits(merged, kind))


@pytest.mark.parametrize("kind", KINDS)
def test_quantized_blocks_are_merged_into_the_kinds_that_were_there(kind: str, tmp_path) -> None:
    """Else GPT-2's checkpoint would hold transposed weights, which is seen only where they are not square."""
    kinds = {name: type(module) for name, module in model(kind).named_modules()}
    with warnings.catch_warnings(action="ignore"):  # of what stays dense
        base = quantize_model(model(kind), block_size=16)
    assert any(is_quantized(module) for module in base.modules())
    mine = inject(base, KINDS[kind].config(LORA))
    learn(mine, kind)
    learnt = logits(mine, kind)
    assert {name: type(module) for name, module in merge(mine).named_modules()} == kinds
    mine.save_pretrained(tmp_path)
    again = type(mine).from_pretrained(tmp_path)
    torch.testing.assert_close(logits(again, kind), learnt, rtol=1e-4, atol=1e-5)


def test_rows_of_an_embedding_train_wherever_its_weight_is_tied(tmp_path) -> None:
    """T5's encoder, decoder and head read one weight in four modules."""
    config = peft.LoraConfig(r=2, target_modules=["q"], trainable_token_indices={"shared": [3, 5]})
    theirs = peft.get_peft_model(model("T5"), config).eval()
    perturb_either(theirs)
    theirs.save_pretrained(tmp_path / "theirs")
    mine = load_adapter(model("T5"), tmp_path / "theirs")
    torch.testing.assert_close(logits(mine, "T5"), logits(theirs, "T5"), rtol=0, atol=1e-5)
    ours = LoRAConfig(rank=2, alpha=8, targets=("q",), trainable_tokens={"shared": (3, 5)})
    save_adapter(mine, ours, tmp_path / "ours")
    again = peft.PeftModel.from_pretrained(model("T5"), tmp_path / "ours").eval()
    torch.testing.assert_close(logits(again, "T5"), logits(mine, "T5"), rtol=0, atol=1e-5)
    before = logits(mine, "T5")
    torch.testing.assert_close(logits(merge(mine), "T5"), before, rtol=1e-4, atol=1e-5)


def test_a_serial_adapter_has_no_weight_to_read() -> None:
    """As T5 reads that of `wo`."""
    mine = inject(model("T5"), SerialAdapterConfig(bottleneck=2, targets=("wo",)))
    with pytest.raises(AttributeError, match="'SerialAdapter' object has no attribute 'weight'"):
        logits(mine, "T5")


@pytest.mark.parametrize("method", [LORA, LoRAConfig(rank=2, trainable_tokens={"embed_tokens": (1,)})])
def test_gemma_scales_what_it_looks_up(method: LoRAConfig) -> None:
    target = ("q_proj",) if method.trainable_tokens else ("embed_tokens",)
    with pytest.raises(TypeError, match="got Gemma3TextScaledWordEmbedding"):
        inject(model("Gemma 3"), replace(method, targets=target))


# In training.


def test_the_trainer_of_transformers_trains_adapters(tmp_path) -> None:
    mine, config = model("Llama"), KINDS["Llama"].config(LORA)
    inject(mine, config)
    examples = [{name: part[row] for name, part in batch("Llama").items()} for row in range(2)]
    arguments = transformers.TrainingArguments(
        tmp_path / "trainer", max_steps=2, learning_rate=0.05, use_cpu=True, report_to=[], save_strategy="no"
    )
    before = logits(mine.eval(), "Llama")
    transformers.Trainer(mine, arguments, train_dataset=examples).train()
    learnt = logits(mine.eval(), "Llama")
    assert not torch.allclose(learnt, before, atol=1e-3)
    again = load_adapter(model("Llama"), save_adapter(mine, config, tmp_path / "ours"))
    assert torch.equal(logits(again, "Llama"), learnt)


def test_what_the_forward_pass_never_calls_is_named() -> None:
    """T5 reads the weight of `shared` in two other modules."""
    mine = inject(model("T5"), LoRAConfig(rank=2, targets=("shared", "q")))
    with pytest.warns(
        UserWarning, match=r"2 of \d+ parameters that train had no gradient .* as shared\.lora_embedding"
    ):
        learn(mine, "T5")
    with pytest.raises(ValueError, match="the loss depends on nothing that trains"):
        learn(inject(model("T5"), LoRAConfig(rank=2, targets=("shared",))), "T5")


@pytest.mark.parametrize("kind", KINDS)
def test_checkpointing_in_bf16_changes_no_gradient(kind: str) -> None:
    """Transformers loads a checkpoint in its own dtype, mostly bf16; adapters are in fp32 over it."""
    mine = perturb(inject(model(kind).bfloat16(), KINDS[kind].config(LORA)))
    trained = trainable_parameters(mine)
    assert {parameter.dtype for parameter in trained} == {torch.float32}
    one = {name: part.bfloat16() if part.is_floating_point() else part for name, part in batch(kind).items()}
    gradients = []
    for switch in ("disable", "enable"):
        getattr(mine.train(), f"activation_checkpointing_{switch}")()
        torch.manual_seed(0)  # of dropout
        gradients.append(torch.autograd.grad(mine(**one).loss, trained))
    assert all(torch.equal(*pair) for pair in zip(*gradients, strict=True))


@pytest.mark.parametrize("kind", [*DECODERS, "T5"])
def test_beams_are_those_of_the_merged_model(kind: str) -> None:
    mine = perturb(inject(model(kind), KINDS[kind].config(LORA)))
    inputs = {name: part for name, part in batch(kind).items() if name != "labels"}
    options = {"max_new_tokens": 5, "do_sample": False, "pad_token_id": 0, "num_beams": 2}
    written = mine.generate(**inputs, **options)
    assert torch.equal(written, merge(mine).generate(**inputs, **options))
