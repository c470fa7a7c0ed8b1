"""What other programs want from an adapter's folder, as lesson 15 says. The first one runs here."""

import json
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from test_gguf import trained
from transformers import AutoModelForCausalLM

from peft_lessons import ALL_LINEAR, LoRAConfig, cli, load_adapter
from peft_lessons.models import load_tiny_gpt, tiny_gpt
from peft_lessons.models.gguf import GGUFFile
from peft_lessons.tasks import COUNTRY_ADAPTER, DEVILS_ADAPTER

LESSON = (Path(__file__).resolve().parents[1] / "notebooks" / "15_out_of_the_notebook.md").read_text(encoding="utf-8")
IDS = torch.randint(1024, (2, 20), generator=torch.Generator().manual_seed(0))

# vLLM 0.33.0: lora/peft_helper.py, lora/utils.py, config/lora.py
VLLM_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
VLLM_STARTS = ("gaussian", "eva", "orthogonal", "mica", "lora_ga")
VLLM_REFUSES = (
    "modules_to_save",
    "use_dora",
    "lora_bias",
    "alora_invocation_tokens",
    "layer_replication",
    "use_qalora",
)


def code(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", LESSON, re.DOTALL)


def test_the_lessons_lines_for_transformers_run(tmp_path: Path) -> None:
    (lines,) = (block for block in code("python") if "load_adapter" in block)
    folder = trained(LoRAConfig(rank=4, alpha=8, targets=ALL_LINEAR), tmp_path / "adapter")
    lines = lines.replace('"HuggingFaceTB/SmolLM2-135M-Instruct"', f"{str(tiny_gpt.FOLDER)!r}, dtype='float32'")
    names: dict[str, AutoModelForCausalLM] = {}
    exec(lines.replace('"my_adapter"', repr(str(folder))), names)
    ours = load_adapter(load_tiny_gpt()[0], folder)
    with torch.no_grad():
        theirs = names["model"](IDS).logits
        torch.testing.assert_close(theirs, ours(IDS), rtol=1e-4, atol=1e-4)
        assert (theirs - load_tiny_gpt()[0](IDS)).abs().max() > 0.1


def wants(folder: Path, rank: int) -> list[str]:
    """What of vLLM's own conditions a folder does not meet."""
    settings = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    names = list(load_file(folder / "adapter_model.safetensors"))
    start = settings.get("init_lora_weights", True)
    conditions = {
        "r, lora_alpha and target_modules": {"r", "lora_alpha", "target_modules"} <= settings.keys(),
        "no biases": settings.get("bias", "none") == "none",
        "nothing else": not any(settings.get(name) for name in VLLM_REFUSES),
        "a start that leaves the base": not isinstance(start, str) or start in VLLM_STARTS,
        "its rank": max(settings["r"], *(settings.get("rank_pattern") or {"": 1}).values()) <= rank,
        "names": all(re.fullmatch(r"base_model\.model\.[\w.]+\.lora_[AB]\.weight", name) for name in names),
    }
    return [what for what, met in conditions.items() if not met]


def test_vllm_takes_what_we_save(tmp_path: Path) -> None:
    (said,) = re.findall(r"--max-lora-rank (\d+)", LESSON)
    assert int(said) in VLLM_RANKS
    configs = [
        LoRAConfig(rank=16),
        LoRAConfig(rank=4, rank_stabilized=True),
        LoRAConfig(rank=8, alpha_pattern={"q_proj": 4}),
    ]
    folders = [DEVILS_ADAPTER, COUNTRY_ADAPTER]
    folders += [trained(config, tmp_path / str(number)) for number, config in enumerate(configs)]
    assert [wants(folder, int(said)) for folder in folders] == [[]] * len(folders)
    assert wants(trained(LoRAConfig(rank=32), tmp_path / "large"), int(said)) == ["its rank"]


def test_ollama_gets_an_adapter_and_its_base(tmp_path: Path) -> None:
    """Its Modelfile names two GGUF files of one architecture, the second an adapter."""
    from peft_lessons.models.smollm2 import weights_path

    (modelfile,) = (block for block in code("text") if block.startswith("FROM"))
    assert re.fullmatch(r"FROM \./\S+\.gguf\nADAPTER \./\S+\.gguf\n", modelfile)
    assert weights_path().name in modelfile
    assert cli.main(["export", str(DEVILS_ADAPTER), str(tmp_path / "a.gguf")]) == 0
    base, adapter = GGUFFile(weights_path()).metadata, GGUFFile(tmp_path / "a.gguf").metadata
    assert base["general.architecture"] == adapter["general.architecture"] == "llama"
    assert (adapter["general.type"], adapter["adapter.type"]) == ("adapter", "lora")


@pytest.mark.parametrize(
    "words",
    [line.split()[1:] for block in code("text") for line in block.splitlines() if line.startswith("peft-lessons")],
)
def test_the_lessons_commands_are_commands(words: list[str], tmp_path: Path, monkeypatch, capsys) -> None:
    """They are understood, and name what is missing: the adapter, which the reader is to bring."""
    monkeypatch.chdir(tmp_path)
    assert cli.main(words) == 2
    assert "my_adapter" in capsys.readouterr().err
