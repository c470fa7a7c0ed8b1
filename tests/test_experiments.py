"""Stored results are complete, and what they say is what a run gives."""

import json
import math

import pytest

from peft_lessons import __main__ as command_line
from peft_lessons import experiments
from peft_lessons.experiments import Results, experiment, names, run, store, stored, zoo

TIMES = {"seconds"}


def test_there_are_experiments():
    assert {"knobs", "zoo"} <= set(names())


@pytest.mark.parametrize("name", names())
def test_each_case_has_its_row(name):
    found, cases = stored(name), experiment(name).cases()
    assert len(found.rows) == len(cases)
    for case, row in zip(cases, found.rows, strict=True):
        assert json.loads(json.dumps(case)).items() <= row.items()
        assert row.keys() > case.keys()
    assert "minutes" in found.about


@pytest.mark.parametrize("name", names())
def test_a_case_measured_again_gives_what_is_stored(name):
    """The quickest one. Sums of another order move a trained number by some thousandths; a wrong row is far off."""
    case, row = min(zip(experiment(name).cases(), stored(name).rows, strict=True), key=lambda pair: pair[1]["seconds"])
    measured = experiment(name).measure(**case)
    assert measured.keys() | case.keys() == row.keys()
    for key, value in measured.items():
        if key not in TIMES:
            assert value == pytest.approx(row[key], rel=0.03), key


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
    with pytest.raises(FileNotFoundError, match="python -m peft_lessons experiment doubling"):
        stored("doubling")


def test_the_command_refuses_an_unknown_experiment(capsys):
    assert command_line.main(["experiment", "zoos"]) == 2
    assert "there are" in capsys.readouterr().err
    assert command_line.main(["experiment"]) == 2
