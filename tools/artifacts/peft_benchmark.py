"""Make peft_lessons/data/peft_benchmark.json from a clone of huggingface/peft at the commit below.

python -m tools.artifacts.peft_benchmark CLONE
"""

import argparse
import json
import subprocess
from pathlib import Path
from typing import Any

COMMIT = "5d602fd"
RESULTS = "method_comparison/MetaMathQA/results"
MODEL = "--llama-3.2-3B-"
OUT = Path(__file__).resolve().parents[2] / "peft_lessons/data/peft_benchmark.json"
ABOUT = {
    "source": f"huggingface/peft at commit {COMMIT}, {RESULTS}",
    "licence": "Apache-2.0",
    "what": "Llama-3.2-3B, bf16, 5,000 steps of 4 on MetaMathQA, AdamW, seed 0, one L40S. Every run that lies there. "
    "accuracy: per cent of the 1,319 questions of GSM8K. forgetting: rise of the cross-entropy on Wikipedia, nats a "
    "token. memory_gb: the most that torch reserved. seconds: of training alone. result: the file's name.",
}
# What a run is called here, by the name of its file without the model's.
NAMES = {
    "full-finetuning lr_0.00001": "full fine-tuning",
    "lora rank32": "LoRA, rank 32, q and v",
    "lora rank64": "LoRA, rank 64, q and v",
    "lora rank64-rslora": "rsLoRA, rank 64, q and v",
    "lora rank10-target-mlp": "LoRA, rank 10, MLP",
    "lora rank14-target-mlp-bdlora": "BD-LoRA, rank 14, MLP",
    "lora rank32-dora": "DoRA, rank 32",
    "lora rank32-lorafa": "LoRA-FA, rank 32",
    "lora rank32-mica": "MiCA, rank 32",
    "adalora rank32": "AdaLoRA",
    "oft rank32": "OFT, 32 blocks of 96",
    "boft default": "BOFT",
    "lokr rank32-factor4-lr0.003": "LoKr",
    "loha rank32": "LoHa, rank 32",
    "vera default": "VeRA, rank 256",
    "ia3 default": "IA³",
    "ia3 lr_0.001": "IA³",
    "ia3 all-attn-5k-lr0.005": "IA³ on all linear layers",
    "ln_tuning default": "LayerNorm tuning",
    "lily rank140-mlp-a2-b2-s8.0": "Lily, rank 140, MLP",
    "lily rank896-a2-b2-s2.0": "Lily, rank 896, q and v",
    "hira rank32-lr4.5e-3": "HiRA, rank 32",
    "shira lr_0.0003-random_seed_42": "SHiRA",
    "frod default": "FRoD",
    "frod sparse0.02-lr_0.001": "FRoD, sparse",
    "miss default": "MiSS",
    "miss bat": "MiSS, bat",
    "miss mini": "MiSS, mini",
    "gralora rank32": "GraLoRA, rank 32",
    "c3a default": "C³A",
    "delora rank32": "DeLoRA, rank 32",
    "randlora default": "RandLoRA, rank 32",
    "deft rank32": "DEFT, rank 32",
    "deft rank32-para": "DEFT, rank 32, parallel",
    "osf rank128": "OSF, rank 128",
    "waveft n_frequency-5000": "WaveFT",
    "road lr_0.001": "RoAd",
    "adamss rank32": "AdaMSS",
    "adaptionprompt lr_0.0005": "LLaMA-Adapter",
    "adaptionprompt lr_5e-3": "LLaMA-Adapter",
    "beft target-v_proj": "BEFT, v",
    "fourierft default": "FourierFT",
    "fourierft n_frequency-5000": "FourierFT, 5,000 frequencies",
    "glora default": "GLoRA",
    "glora vector-paths": "GLoRA, vectors",
    "peanut rank1-relu-depth0-s32.0": "PEANuT, rank 1",
    "peanut rank32-relu-depth0-s2.0": "PEANuT, rank 32",
    "prefixtuning lr_0.001": "prefix tuning, 200 tokens",
    "prefixtuning lr_0.005_zero_init": "prefix tuning, 200 tokens, start at zero",
    "prefixtuning tokens50-init_prefix-lr_0.005": "prefix tuning, 50 tokens",
    "prompt_tuning default": "prompt tuning, 200 tokens",
    "prompt_tuning lr_0.001": "prompt tuning, 200 tokens",
    "prompt_tuning sample_vocab-lr_0.001": "prompt tuning, 200 tokens of the vocabulary",
    "psoft default": "PSOFT",
    "psoft fast": "PSOFT, fast",
    "ptuning default": "P-tuning",
    "pvera default": "PVeRA, rank 256",
    "pvera rank64": "PVeRA, rank 64",
    "tinylora default": "TinyLoRA",
    "tinylora weight-tying": "TinyLoRA, tied",
    "trainable_tokens sos+eos": "two trained tokens",
    "unilora default": "Uni-LoRA",
    "vblora default": "VB-LoRA",
}


def row(path: str, result: dict[str, Any]) -> dict[str, Any]:
    """Return what the course keeps of one result file."""
    name = Path(path).stem.replace(MODEL, " ")
    train, settings = result["train_info"], result["run_info"]["train_config"]["optimizer_kwargs"]
    last, megabytes = train["metrics"][-1], train["file_size"] / 1e6
    return {
        "experiment": NAMES[name],
        "learning_rate": settings["lr"],
        "weight_decay": settings.get("weight_decay", 0.01),  # AdamW's default where none is given
        "trained": train["num_trainable_params"],
        "accuracy": round(100 * last["test accuracy"], 2),
        "forgetting": round(last["forgetting"], 4),
        "memory_gb": round(train["accelerator_memory_max"] / 1e9, 2),
        "seconds": float(round(train["train_time"])),
        "file_mb": round(megabytes, 1 if megabytes >= 1 else 2),
        "result": Path(path).stem,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clone", type=Path)
    clone = parser.parse_args().clone

    def git(*arguments: str) -> str:
        return subprocess.run(["git", "-C", clone, *arguments], capture_output=True, text=True, check=True).stdout

    paths = [path for path in git("ls-tree", "-r", "--name-only", COMMIT, RESULTS).split() if path.endswith(".json")]
    rows = [row(path, json.loads(git("show", f"{COMMIT}:{path}"))) for path in paths]
    lines = ",\n".join(json.dumps(one, ensure_ascii=False) for one in rows)
    OUT.write_text(f'{{\n"about": {json.dumps(ABOUT)},\n"rows": [\n{lines}\n]\n}}\n', encoding="utf-8")


if __name__ == "__main__":
    main()
