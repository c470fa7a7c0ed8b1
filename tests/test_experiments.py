"""Stored results are complete, and what they say is what a run gives."""

import importlib.util
import json
import math
import os

import pytest
import torch

from peft_lessons import adapters_disabled, experiments, load_adapter
from peft_lessons import cli as command_line
from peft_lessons.experiments import Results, bits, experiment, laptop, load, names, run, store, stored, zoo
from peft_lessons.experiments._definitions import perplexity
from peft_lessons.models.decoder import generate
from peft_lessons.tasks import COUNTRY_ADAPTER, country_records

VARYING = {"seconds", "says", "here", "lead", "waits", "whole"}  # between machines
OF_DRAWINGS = {"read", "recognized"}  # shares of 24 drawings, of which a few may be judged otherwise


def test_there_are_experiments():
    assert {"bits", "knobs", "laptop", "zoo"} <= set(names())


@pytest.mark.parametrize("name", names())
def test_each_case_has_its_row(name):
    found, cases = stored(name), experiment(name).cases()
    assert len(found.rows) == len(cases)
    for case, row in zip(cases, found.rows, strict=True):
        assert json.loads(json.dumps(case)).items() <= row.items()
        assert row.keys() > case.keys()
    assert "minutes" in found.about


# Each case of these trains SmolLM2 for minutes, or the tiny GPT for so many steps that machines come to differ; those
# of `load` and `served` are times and texts, and have tests of their own below.
LONG = (
    *("bits", "capacity", "distilled", "failures", "few_shot", "laptop", "load", "preferences", "rewards", "served"),
    "spectrum",
)


@pytest.mark.slow
@pytest.mark.parametrize("name", names())
def test_a_case_measured_again_gives_what_is_stored(name):
    """The quickest one. Sums of another order move a trained number by some thousandths; a wrong row is far off."""
    if name in LONG and "PEFT_LESSONS_LONG" not in os.environ:
        pytest.skip(f"{name} takes minutes; to run it: PEFT_LESSONS_LONG=1 make test")
    case, row = min(zip(experiment(name).cases(), stored(name).rows, strict=True), key=lambda pair: pair[1]["seconds"])
    measured = experiment(name).measure(**case)
    assert measured.keys() | case.keys() == row.keys()
    for key, value in measured.items():
        if key not in VARYING:
            assert value == pytest.approx(row[key], rel=0.03, abs=3 / 24 if key in OF_DRAWINGS else None), key


CLOSE = 0.5  # nats: what rounding the inputs of products to 8 bits moves, as in test_gguf.py


def test_where_server_and_notebook_part_it_was_a_close_call():
    rows = stored("served").rows
    assert all((row["says"] == row["here"]) == (not row["lead"]) for row in rows)
    assert all(0 <= lead < CLOSE for row in rows for lead in row["lead"])


with_llama_cpp = pytest.mark.skipif(
    importlib.util.find_spec("xllamacpp") is None, reason="xllamacpp, which brings llama.cpp, is not installed"
)


@with_llama_cpp
@pytest.mark.slow
@pytest.mark.parametrize("adapters", ["devil", "both"])
def test_the_server_answers_again_as_the_notebook_does(adapters):
    """With an adapter, and with a sum of two, up to a close call."""
    measured = experiment("served").measure(asked="devil", adapters=adapters, rows="neighbours")
    assert measured["here"].startswith("FRIEND, n.") and measured["says"]
    assert all(lead < CLOSE for lead in measured["lead"]), measured


@with_llama_cpp
@pytest.mark.slow
@pytest.mark.parametrize(
    "case",
    [
        {"by": "notebook", "clients": 1, "adapters": "mixed"},
        {"by": "llama.cpp", "clients": load.CLIENTS, "adapters": "mixed"},
        {"by": "llama.cpp", "clients": load.CLIENTS, "adapters": "merged"},
    ],
    ids=str,
)
def test_every_request_of_the_load_is_answered(case, monkeypatch):
    """A few of them, each by as many tokens as all others: `measure` refuses fewer."""
    monkeypatch.setattr(load, "REQUESTS", 5)
    measured = load.measure(**case)
    waits = measured["waits"]
    assert len(waits) == 5 and max(waits) <= measured["whole"] <= sum(waits) + 1
    assert stored("load").one(**case).keys() == case.keys() | measured.keys()


@pytest.mark.slow
def test_what_rounding_costs_before_training_is_what_is_stored():
    """The part of `bits` that needs no training."""
    measured = perplexity(bits.load("4"))
    assert measured == pytest.approx(stored("bits").one(base="4")["before"], rel=0.03)


@pytest.mark.slow
def test_what_the_untouched_model_does_on_a_laptop_is_what_is_stored():
    """The part of `laptop` that needs no training, on its first records."""
    model, tokenizer = laptop.prepare("none")
    row, examples = stored("laptop").one(method="none"), country_records(tokenizer)
    assert laptop.general_perplexity(model) == pytest.approx(row["speeches"], rel=0.03)
    for part, records in (("known", examples.held_out), ("new", examples.new_form)):
        assert laptop.exact(model, records[:8], tokenizer.eos_id) == row[part][:8]


def test_an_unknown_name_is_refused_with_what_there_is():
    with pytest.raises(ValueError, match=r"'zoos'; there are .*zoo"):
        stored("zoos")
    with pytest.raises(ValueError, match="DoRA"):
        zoo.prepare("dora", None)


def test_rows_are_found_by_their_settings():
    results = Results([{"a": 1, "b": 2}, {"a": 1, "b": 3}], "")
    assert results.one(b=3) == {"a": 1, "b": 3}
    assert len(results.where(a=1)) == 2
    with pytest.raises(ValueError, match=r"no row has {'b': 4}; there are {'b': \['2', '3'\]}"):
        results.where(b=4)
    with pytest.raises(ValueError, match="2 rows"):
        results.one(a=1)


def test_run_and_store(tmp_path, monkeypatch):
    class Doubling:
        @staticmethod
        def cases():
            return [{"x": 1}, {"x": 2}]

        @staticmethod
        def measure(x):
            return {"y": 2.0 * x / 3, "seconds": 0.0}

    monkeypatch.setattr(experiments, "experiment", lambda name: Doubling)
    results = run("doubling")
    assert [row["x"] for row in results.rows] == [1, 2]
    path = store("doubling", results, tmp_path)
    monkeypatch.setattr(experiments, "RESULTS", tmp_path)
    again = stored("doubling")
    assert again.rows == [{"x": 1, "y": 0.666667, "seconds": 0.0}, {"x": 2, "y": 1.33333, "seconds": 0.0}]
    assert again.about == results.about
    with pytest.raises(ValueError, match="not JSON compliant"):
        store("doubling", Results([{"x": math.nan}], ""), tmp_path)
    assert stored("doubling").rows == again.rows, "a failed write leaves what was there"
    path.unlink()
    with pytest.raises(FileNotFoundError, match=r"peft.lessons experiment doubling"):
        stored("doubling")


def test_the_command_refuses_an_unknown_experiment(capsys):
    assert command_line.main(["experiment", "zoos"]) == 2
    assert "there are" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="2"):
        command_line.main(["experiment"])


@pytest.mark.slow
def test_exact_answers_are_those_that_generation_gives():
    """`laptop.exact` never generates: it must agree with greedy decoding, token by token."""
    model, tokenizer = laptop.prepare("none")
    load_adapter(model, COUNTRY_ADAPTER)
    examples = country_records(tokenizer)
    some = examples.held_out[:4] + examples.new_form[2:6]
    greedy = []
    for prompt, wanted in some:
        ids = generate(model, torch.tensor([prompt]), len(wanted), eos_id=tokenizer.eos_id)[0].tolist()
        greedy.append(int(ids == wanted))
    assert laptop.exact(model, some, tokenizer.eos_id) == greedy
    assert sum(greedy) > 0, "a test that only sees failures shows little"
    with adapters_disabled(model):
        assert laptop.exact(model, some, tokenizer.eos_id) == [0] * len(some)


def test_unknown_methods_and_bases_are_refused():
    with pytest.raises(ValueError, match="'lora'; there are none, LoRA"):
        laptop.prepare("lora")
    with pytest.raises(ValueError, match="'5'; there are as stored, 16"):
        bits.load("5")


@pytest.mark.slow
def test_bytes_of_bases():
    """The linear weights of SmolLM2's blocks: 5 bits as stored, NF4's 4.127, and 16."""
    weights = 106_168_320
    assert bits.linear_bytes(bits.load("as stored")) * 8 == 5 * weights
    assert bits.linear_bytes(bits.load("16")) == 2 * weights
    assert bits.linear_bytes(bits.load("4")) * 8 / weights == pytest.approx(4.127, abs=0.001)
