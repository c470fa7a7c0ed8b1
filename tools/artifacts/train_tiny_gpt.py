"""Train the tiny GPT and its tokenizer; writes peft_lessons/models/tiny_gpt. About five minutes on two free cores.

    OMP_WAIT_POLICY=passive python -m tools.artifacts.train_tiny_gpt

Reads only the novels that the course ships. Seeded: the same torch on the same kind of processor with the same number
of threads gives the same bytes.
"""

import hashlib
import json
import math
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors.torch import save
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from tqdm import tqdm

from peft_lessons.data import AUSTEN_HELD_OUT, austen
from peft_lessons.files import write_bytes
from peft_lessons.models.decoder import Decoder, DecoderConfig
from peft_lessons.training import consecutive_windows, evaluate_loss, train, windows

FOLDER = Path(__file__).resolve().parents[2] / "peft_lessons" / "models" / "tiny_gpt"
EOS = "<|endoftext|>"
CONFIG = DecoderConfig(
    vocab_size=1024,
    hidden_size=160,
    intermediate_size=448,
    num_hidden_layers=4,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=512,
)
STEPS = 1600
BATCH_SIZE = 16
TOKENS = 128
LEARNING_RATE = 3e-3
WEIGHT_DECAY = 0.1
SEED = 0


def main() -> None:
    novels = austen()
    held_out = novels.pop(AUSTEN_HELD_OUT)
    tokenizer = train_tokenizer(list(novels.values()))
    eos_id = 0  # special tokens come first in the vocabulary
    token_ids = [i for text in novels.values() for i in [*tokenizer.encode(text).ids, eos_id]]
    print(f"{len(token_ids):,} tokens to learn from")

    torch.manual_seed(SEED)
    model = Decoder(CONFIG)
    evaluation = consecutive_windows(tokenizer.encode(held_out).ids, batch_size=32, length=TOKENS)
    history = train(
        model,
        windows(token_ids, batch_size=BATCH_SIZE, length=TOKENS, seed=SEED),
        steps=STEPS,
        learning_rate=LEARNING_RATE,
        weight_decay=WEIGHT_DECAY,
        seed=SEED,
        evaluate=lambda model: evaluate_loss(model, evaluation[::10]),
        evaluate_every=400,
        bar=lambda steps: tqdm(steps, mininterval=10),
    )
    model.half().float()  # what is measured is what is shipped
    perplexity = math.exp(evaluate_loss(model, evaluation))
    print(f"{history.seconds:.0f} s; held out, in nats: {history.evaluations}; perplexity {perplexity:.2f}")

    state = {name: tensor.half() for name, tensor in model.state_dict().items() if name != "lm_head.weight"}
    files = {
        "config.json": to_json(
            {
                "architectures": ["LlamaForCausalLM"],
                "model_type": "llama",
                **asdict(CONFIG),
                "hidden_act": "silu",
                "bos_token_id": eos_id,
                "eos_token_id": eos_id,
                "dtype": "float16",
            }
        ),
        "model.safetensors": save(state, metadata={"format": "pt"}),
        "tokenizer.json": tokenizer.to_str().encode(),
        "tokenizer_config.json": to_json({"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": EOS}),
    }
    files["about.json"] = to_json(
        {
            "licence": "the course's own, as its code; the novels are in the public domain",
            "parameters": sum(parameter.numel() for parameter in model.parameters()),
            "trained_on": list(novels),
            "training": {
                "steps": STEPS,
                "batch_size": BATCH_SIZE,
                "tokens": TOKENS,
                "learning_rate": LEARNING_RATE,
                "weight_decay": WEIGHT_DECAY,
                "seed": SEED,
            },
            "held_out": AUSTEN_HELD_OUT,
            "perplexity": round(perplexity, 3),
            "sha256": {
                name: hashlib.sha256(files[name]).hexdigest() for name in ("model.safetensors", "tokenizer.json")
            },
        }
    )
    for name, content in files.items():
        write_bytes(FOLDER / name, content)


def train_tokenizer(texts: list[str]) -> Tokenizer:
    """Byte-level BPE: any text can be encoded, what Jane Austen often writes is one token."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=CONFIG.vocab_size,
        special_tokens=[EOS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def to_json(content: dict) -> bytes:
    return (json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode()


if __name__ == "__main__":
    main()
