"""The playground computes what the package computes: its engine runs in node, the package beside it is the oracle."""

import json
import math
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
from javascript import node_answer
from peft import PeftModel
from references import multiply_adds
from torch.nn import functional as F
from transformers import LlamaForCausalLM

from peft_lessons import (
    LoRAConfig,
    fake_quantize,
    full_fine_tuning,
    inject,
    load_adapter,
    save_adapter,
    trainable_parameters,
)
from peft_lessons import data as course_data
from peft_lessons.models import generate, load_tiny_gpt, tiny_gpt
from peft_lessons.training import consecutive_windows, evaluate_loss, learning_rate_factor, train, windows
from tools.site import build_playground, build_site

BITS, CODES = build_playground.BITS, build_playground.CODES
ENGINE = build_playground.HERE / "engine"
COMPILER = Path(__file__).parent / "js/node_modules/assemblyscript/bin/asc.js"
ALL = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
MODULE = "model.layers.1.self_attn.v_proj"
USUAL = {"method": "lora", "rank": 4, "alpha": 8, "targets": ALL, "rate": 0.01, "bits": 32, "steps": 100, "seed": 0}
CASES = {
    "r 4, all linear": USUAL,
    "r 1": USUAL | {"rank": 1, "alpha": 2, "seed": 3},
    "r 64": USUAL | {"rank": 64, "alpha": 64, "rate": 0.003},
    "q and v": USUAL | {"targets": ["q_proj", "v_proj"], "alpha": 16},
    "full": USUAL | {"method": "full", "rate": 0.001},
    "a base of 3 bits": USUAL | {"bits": 3},
}


@pytest.fixture(scope="module")
def tokens():
    """Ids to learn from, and held-out ones."""
    texts = build_playground.texts()
    _, tokenizer = load_tiny_gpt()
    learn, held_out = texts["jargon"]["learn"], texts["austen"]
    return tokenizer.encode(learn), tokenizer.encode(held_out)[:512]


@pytest.fixture
def answers(tmp_path):
    """What the engine answers to a list of jobs."""

    def ask(*jobs, codes=CODES):
        known = {"jobs": jobs, "weights": str(tiny_gpt.FOLDER / "model.safetensors")}
        known |= {"codes": [str(ENGINE / name) for name in codes], **build_playground.course()}
        return node_answer("playground.js", known, tmp_path)

    return ask


def prepared(settings):
    """The package's model at the start of such a run."""
    model, _ = load_tiny_gpt()
    if settings["bits"] < 32:
        for module in model.model.layers.modules():
            if isinstance(module, torch.nn.Linear):
                module.weight.data = fake_quantize(module.weight.data, settings["bits"], "normal", "block")
    if settings["method"] == "full":
        return full_fine_tuning(model), None
    torch.manual_seed(settings["seed"])
    config = LoRAConfig(rank=settings["rank"], alpha=settings["alpha"], targets=tuple(settings["targets"]))
    return inject(model, config), config


def prompt_ids():
    return load_tiny_gpt()[1].encode("The hacker was in want of a wife")


def job(settings, tokens, **more):
    ids, held_out = tokens
    return {
        **{"what": "train", "settings": settings, "ids": ids, "heldOut": held_out},
        **{"prompt": prompt_ids(), "count": 60, "module": MODULE, **more},
    }


def check_run(found, settings, tokens):
    """Compare a run of the engine with the package's: each loss, and what the trained model does."""
    ids, held_out = tokens
    model, _ = prepared(settings)
    parameters = trainable_parameters(model)
    assert found["trained"] == sum(parameter.numel() for parameter in parameters)
    if settings["method"] == "lora":
        for mine, parameter in zip(found["start"], parameters, strict=False):
            torch.testing.assert_close(torch.tensor(mine, dtype=torch.float32), parameter.flatten(), atol=1e-8, rtol=0)
    base = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    batches = windows(ids, batch_size=8, length=64, seed=settings["seed"])
    history = train(model, batches, steps=settings["steps"], learning_rate=settings["rate"], seed=settings["seed"])
    torch.testing.assert_close(torch.tensor(found["losses"]), torch.tensor(history.losses), atol=1e-5, rtol=0)
    perplexity = math.exp(evaluate_loss(model, consecutive_windows(held_out, batch_size=8, length=64)))
    assert found["perplexity"] == pytest.approx(perplexity, rel=1e-4)
    prompt = torch.tensor([prompt_ids()])
    assert found["greedy"] == generate(model, prompt, 60, eos_id=0)[0].tolist()
    layer = model.get_submodule(MODULE)
    change = layer.delta() if settings["method"] == "lora" else layer.weight - base[f"{MODULE}.weight"]
    singular = torch.linalg.svdvals(change.detach().double())
    rank = len(found["spectrum"])
    torch.testing.assert_close(torch.tensor(found["spectrum"]).double(), singular[:rank], rtol=1e-3, atol=1e-5)
    return model


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_a_hundred_steps_are_the_packages(answers, tokens, name):
    (found,) = answers(job(CASES[name], tokens))
    check_run(found, CASES[name], tokens)


@pytest.mark.parametrize("name", ["r 4, all linear", "full"])
def test_a_step_multiplies_as_much_as_torchs(answers, tokens, name):
    """How long that takes differs from machine to machine; `make bench` measures it.

    A window's last token goes in with nothing to be compared with: the engine leaves it out, and so does torch here.
    """
    (found,) = answers(job(CASES[name] | {"steps": 1}, tokens))
    model, _ = prepared(CASES[name])
    ids, _ = next(windows(tokens[0], batch_size=8, length=64, seed=0))

    def step():
        F.cross_entropy(model(ids[:, :-1]).flatten(0, 1), ids[:, 1:].flatten()).backward()

    assert found["work"] == multiply_adds(step)


def test_a_few_steps_are_the_packages(answers, tokens):
    settings = USUAL | {"steps": 6, "bits": 4, "rate": 0.001}
    (found,) = answers(job(settings, tokens))
    check_run(found, settings, tokens)


def test_the_start_is_the_packages_model(answers, tokens):
    """Logits within 1e-4, and at strength 0 the text of the base, whatever has been learnt."""
    (found,) = answers(job(USUAL | {"steps": 3, "rate": 0.1}, tokens))
    (before,) = answers(job(USUAL | {"steps": 0}, tokens))
    model, _ = load_tiny_gpt()
    prompt = torch.tensor([prompt_ids()])
    with torch.no_grad():
        torch.testing.assert_close(torch.tensor(before["logits"]), model(prompt).flatten(), atol=1e-4, rtol=0)
    assert found["base"] == before["greedy"] == generate(model, prompt, 60, eos_id=0)[0].tolist()
    assert found["greedy"] != found["base"]


FEW = {"task": "jargon", "method": "lora", "rank": 16, "alpha": 16, "targets": "all", "rate": 0.01, "bits": 32}
FEW |= {"steps": 20, "seed": 0}
FEWEST, KEPT = "As few numbers as possible", "Learn, and keep Austen"
RUINS, RANK = "The rate that ruins", "How much rank was used?"
MET = {  # of a run, the challenges that it meets, and which guess that shows to be right; no other is met
    "neither enough": (FEW | {"rank": 4, "alpha": 8}, {}),
    "wide": (FEW | {"rank": 32, "alpha": 64, "rate": 0.003}, {RANK: 1}),
    "learnt at a price": (FEW | {"steps": 40, "rank": 8}, {FEWEST: 2}),
    "learnt and kept": (FEW | {"steps": 40, "rank": 32, "alpha": 64, "rate": 0.003}, {FEWEST: 3, KEPT: None, RANK: 1}),
    "ruined": (FEW | {"steps": 60, "rank": 4, "alpha": 8, "rate": 0.1}, {RUINS: 2}),
    "not ruined": (FEW | {"steps": 60, "rank": 4, "alpha": 8, "rate": 0.003}, {}),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", MET)
def test_a_challenge_is_met_by_what_meets_it(answers, name):
    """As a finished run of the page shows it, with the texts that the page measures on."""
    knobs, expected = MET[name]
    texts = build_playground.course()["texts"]
    learn, task, austen = texts["jargon"]["learn"], texts["jargon"]["held_out"][:1024], texts["austen"][:1024]
    job = {"what": "challenge", "knobs": knobs, "ids": learn, "task": task, "austen": austen, "module": MODULE}
    (found,) = answers(job)
    met = {title: verdict[0] for title, verdict in found if verdict}
    assert met == expected


def logits_of(model):
    with torch.no_grad():
        output = model(torch.tensor([prompt_ids()]))
    return getattr(output, "logits", output).flatten()


def test_downloads_load_in_the_package_and_in_peft(answers, tokens, tmp_path):
    settings = USUAL | {"steps": 5, "targets": ["v_proj", "up_proj"], "alpha": 6}
    (found,) = answers(job(settings, tokens, folder=str(tmp_path)))
    ours = load_adapter(load_tiny_gpt()[0], tmp_path)
    theirs = PeftModel.from_pretrained(LlamaForCausalLM.from_pretrained(tiny_gpt.FOLDER, dtype=torch.float32), tmp_path)
    for model in (ours, theirs):
        torch.testing.assert_close(logits_of(model), torch.tensor(found["logits"]), atol=1e-4, rtol=0)


@pytest.fixture
def saved(tmp_path):
    """An adapter that the package has made, in a folder, and its model."""
    settings = USUAL | {"rank": 5, "targets": ["k_proj", "down_proj"]}
    model, config = prepared(settings)
    for parameter in trainable_parameters(model):
        torch.nn.init.normal_(parameter, std=0.1)
    return save_adapter(model, config, tmp_path / "adapter"), model


def opening(folder):
    return {"what": "open", "folder": str(folder), "prompt": prompt_ids(), "seed": 0}


def test_adapters_of_the_package_open(answers, saved):
    folder, model = saved
    (found,) = answers(opening(folder))
    assert found["settings"] == {"method": "lora", "rank": 5, "alpha": 8, "targets": ["k_proj", "down_proj"]}
    torch.testing.assert_close(torch.tensor(found["logits"]), logits_of(model), atol=1e-4, rtol=0)


UNFIT = [
    ({"r": 500}, "r is 500; this page opens ranks from 1 to 64"),
    ({"r": 6}, "is 5 × 160, and the settings and this model need 6 × 160"),
    ({"peft_type": "IA3"}, 'the type "IA3"; this page opens "LORA"'),
    ({"use_dora": True}, "use_dora is true"),
    ({"lora_alpha": 0}, "lora_alpha is 0; it must be above 0"),
    ({"target_modules": ["k_proj", "c_attn"]}, "this model has q_proj, k_proj"),
    ({"target_modules": ["k_proj"]}, "has no place here"),
    ({"target_modules": ["k_proj", "down_proj", "q_proj"]}, "q_proj.lora_A.weight is missing"),
]


def test_settings_that_do_not_fit_are_named(answers, saved, tmp_path):
    folder, _ = saved
    jobs = []
    for place, (change, _) in enumerate(UNFIT):
        path = shutil.copytree(folder, tmp_path / str(place)) / "adapter_config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | change))
        jobs.append(opening(path.parent))
    for (change, words), found in zip(UNFIT, answers(*jobs), strict=True):
        assert words in found["message"], change


def test_damaged_files_are_named(answers, saved, tmp_path):
    folder, _ = saved
    weights = (folder / "adapter_model.safetensors").read_bytes()
    broken = {
        "cut short": (weights[:-100], "the file is cut short or damaged"),
        "empty": (b"", "this is no safetensors file, or it is cut short"),
        "pickle": (b"\x80\x02}q\x00." * 40, "this is no safetensors file"),
        "not finite": (weights[:-4] + b"\x00\x00\xc0\x7f", "numbers that are not finite"),
        "another type": (weights.replace(b'"F32"', b'"I32"', 1), "numbers of the type I32"),
    }
    jobs = []
    for name, (content, _) in broken.items():
        shutil.copytree(folder, tmp_path / name)
        (tmp_path / name / "adapter_model.safetensors").write_bytes(content)
        jobs.append(opening(tmp_path / name))
    (tmp_path / "empty" / "adapter_config.json").write_text("{")
    found = answers(*jobs, opening(tmp_path / "empty"))
    for (name, (_, words)), answer in zip(broken.items(), found, strict=False):
        assert words in answer["message"] or name == "empty", name
    assert found[-1]["message"] == "adapter_config.json is no JSON"


def test_the_base_is_rounded_as_the_package_rounds(answers):
    """Bit for bit; the last block is cut short."""
    values = torch.randn(64 * 40 + 17, generator=torch.Generator().manual_seed(0))
    values[:64] = 0
    job = {"what": "quantize", "values": values.tolist(), "blockSize": 64}
    for bits, found in zip(BITS, answers(*(job | {"bits": bits} for bits in BITS)), strict=True):
        assert torch.equal(torch.tensor(found), fake_quantize(values, bits, "normal", "block"))


@pytest.mark.skipif(not COMPILER.exists(), reason="AssemblyScript is missing; to run it: make setup-test")
@pytest.mark.parametrize("name", CODES)
def test_what_is_compiled_comes_from_its_source(tmp_path, name):
    """`npm run wasm` in the playground's folder compiles it; what is stored is what comes out."""
    made = tmp_path / name
    options = ["--config", str(build_playground.HERE / "asconfig.json"), "--outFile", str(made)]
    options += ["--enable", "relaxed-simd"] if "fused" in name else []
    subprocess.run(["node", COMPILER, "simd.ts", *options], cwd=ENGINE, check=True)
    assert made.read_bytes() == (ENGINE / name).read_bytes()


def test_random_numbers_are_torchs(answers):
    (found,) = answers({"what": "draw", "seed": 12345, "count": 2000, "below": 30011})
    generator = torch.Generator().manual_seed(12345)
    assert found["below"] == torch.randint(30011, (2000,), generator=generator).tolist()
    torch.manual_seed(12345)
    expected = torch.empty(2000).uniform_(-0.3, 0.3)  # where there is no FMA, it rounds twice
    torch.testing.assert_close(torch.tensor(found["uniform"]), expected, atol=3e-8, rtol=0)


@pytest.mark.parametrize("code", CODES)
def test_products_of_any_size(answers, code):
    sizes = [(1, 1, 1), (5, 3, 7), (64, 40, 63), (13, 160, 20), (8, 504, 1024)]
    pairs = [(torch.randn(rows, inner), torch.randn(inner, columns)) for rows, inner, columns in sizes]
    jobs = [
        {"what": "product", "a": a.flatten().tolist(), "b": b.flatten().tolist()}
        | {"rows": len(a), "inner": len(b), "columns": b.shape[1]}
        for a, b in pairs
    ]
    for (a, b), found in zip(pairs, answers(*jobs, codes=[code]), strict=True):
        expected = a.double() @ b.double()
        for name, product in {"plain": expected, "transposed": expected.T}.items():
            difference = torch.tensor(found[name]).double() - product.flatten()
            assert difference.abs().max() < 4e-6 * len(b) ** 0.5, (a.shape, b.shape, name)


@pytest.mark.parametrize("code", CODES)
def test_powers_of_e(answers, code):
    """To two units of the last place from e⁻⁶⁴ to e⁶⁴; 0 below, e⁶⁴ above; nothing behind them changes."""
    exponents = torch.cat([torch.linspace(-64, 64, 1001), torch.tensor([0.0, -200, 64.1, float("nan")])])
    values = [str(value) for value in exponents.tolist()]  # JSON has no NaN
    (found,) = answers({"what": "powers", "values": values, "factor": -1}, codes=[code])
    *powers, huge, tiny, nothing = torch.tensor([math.nan if value is None else value for value in found["powers"]])
    assert math.isnan(nothing) and tiny == 0 and huge == powers[0]
    expected = torch.exp(-exponents[: len(powers)].double())
    torch.testing.assert_close(torch.stack(powers).double(), expected, rtol=2.4e-7, atol=0)
    assert found["behind"] == 7


def test_singular_values(answers):
    matrices = [
        torch.randn(shape, generator=torch.Generator().manual_seed(1)) for shape in [(40, 12), (12, 40), (7, 7)]
    ]
    for matrix in matrices:
        matrix[:, 0] = matrix[:, 1]  # a zero among them
    jobs = [
        {"what": "spectrum", "rows": len(matrix), "columns": matrix.shape[1], "values": matrix.flatten().tolist()}
        for matrix in matrices
    ]
    for matrix, found in zip(matrices, answers(*jobs), strict=True):
        expected = torch.linalg.svdvals(matrix.double())
        torch.testing.assert_close(torch.tensor(found).double(), expected, rtol=1e-6, atol=1e-6)


def test_the_schedule_is_the_packages(answers):
    """25 steps have two and a half of warm-up, which Python rounds to two."""
    lengths = [1, 5, 25, 60, 100]
    for steps, found in zip(lengths, answers(*({"what": "rates", "steps": steps} for steps in lengths)), strict=True):
        assert found == pytest.approx([learning_rate_factor(step, steps, 0.1) for step in range(steps)])


def test_tokens_are_the_packages(answers):
    _, tokenizer = load_tiny_gpt()
    texts = [entry["text"] for entry in course_data.jargon()[::20]]
    texts += [" ", "naïve café — 漢字 🙂\n\n\ttab", "it's 1,234"]
    (found,) = answers({"what": "tokens", "texts": texts})
    for text, answer in zip(texts, found, strict=True):
        assert (answer["ids"], answer["text"]) == (tokenizer.encode(text), text)


@pytest.mark.parametrize("line", ['import x from "./other.js";', "export default 3;"])
def test_what_cannot_be_bundled_is_named(tmp_path, line):
    (tmp_path / "other.js").write_text("export const x = 1;\n")
    (tmp_path / "page.js").write_text(f"{line}\n")
    with pytest.raises(ValueError, match=r"page\.js: .* cannot be bundled"):
        build_playground.bundle(tmp_path / "page.js")


def test_the_pages_are_whole(tmp_path):
    """Their scripts are scripts, and no link leads nowhere."""
    build_playground.build(tmp_path)
    (tmp_path / "index.html").touch()
    assert build_site.problems(tmp_path) == []
    for entry in (entry for page in build_playground.PAGES for entry in (page.worker, page.script)):
        (tmp_path / "script.js").write_text(build_playground.bundle(build_playground.HERE / entry), encoding="utf-8")
        subprocess.run(["node", "--check", tmp_path / "script.js"], check=True)
