"""What a lesson trained is kept once, loaded exactly, and never lost or overwritten."""

import json
import os

import pytest
import torch
from torch import nn

from peft_lessons import LoRAConfig, trainable_parameters
from peft_lessons.classroom.progress.saved_training import kept_folder, trained_once
from peft_lessons.training import History

CONFIG = LoRAConfig(rank=2, alpha=6, targets=("0",))
X = torch.randn(5, 8, generator=torch.Generator().manual_seed(0))


@pytest.fixture(autouse=True)
def fresh_home(tmp_path, monkeypatch):
    monkeypatch.setenv("PEFT_LESSONS_HOME", str(tmp_path / "home"))


class Lesson:
    """A model, and how often it was trained."""

    def __init__(self, interrupted=False):
        self.calls, self.interrupted = 0, interrupted

    def run(self, config=CONFIG, on=None):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(8, 6))

        def training():
            self.calls += 1
            for parameter in trainable_parameters(model):
                nn.init.normal_(parameter)
            return History([2.0, 1.5], [(0, 2.5), (2, 1.0)], 3.25, self.interrupted)

        return model, trained_once("08-test", model, config, training, on)


def test_the_second_time_loads_what_the_first_trained(capsys):
    lesson = Lesson()
    first, history = lesson.run()
    assert capsys.readouterr().out == ""
    second, again = lesson.run()
    assert lesson.calls == 1
    assert torch.equal(first(X), second(X))
    assert (again.losses, [tuple(row) for row in again.evaluations]) == (history.losses, history.evaluations)
    assert again.seconds == 3.25
    assert str(kept_folder("08-test", CONFIG)) in capsys.readouterr().out


def test_another_config_is_trained_anew():
    lesson = Lesson()
    lesson.run()
    lesson.run(LoRAConfig(rank=3, alpha=6, targets=("0",)))
    assert lesson.calls == 2


def test_other_data_are_trained_on_anew():
    lesson = Lesson()
    for on in (None, [([1, 2], [3])], [([1, 2], [4])], [([1, 2], [3])]):
        lesson.run(on=on)
    assert lesson.calls == 3


def test_interrupted_training_is_not_kept():
    lesson = Lesson(interrupted=True)
    lesson.run()
    lesson.run()
    assert lesson.calls == 2


@pytest.mark.parametrize("file", ["history.json", "adapter_config.json", "adapter_model.safetensors"])
def test_what_is_damaged_is_put_aside_and_trained_again(file, capsys):
    lesson = Lesson()
    lesson.run()
    folder = kept_folder("08-test", CONFIG)
    (folder / file).write_bytes(b"{ damaged")
    lesson.run()
    assert lesson.calls == 2
    aside = folder.with_name(f"{folder.name}.unreadable-1")
    assert (aside / file).read_bytes() == b"{ damaged"
    assert str(aside) in capsys.readouterr().out
    lesson.run()
    assert lesson.calls == 2


def test_a_history_of_another_form_is_damaged_too():
    lesson = Lesson()
    lesson.run()
    (kept_folder("08-test", CONFIG) / "history.json").write_text(json.dumps({"losses": [], "more": 1}))
    lesson.run()
    assert lesson.calls == 2


@pytest.mark.skipif(os.name == "nt", reason="a file in the folder's place is another error there")
def test_what_cannot_be_kept_stops_no_lesson(capsys):
    folder = kept_folder("08-test", CONFIG)
    folder.parent.mkdir(parents=True)
    folder.write_text("a file stands here")
    model, _ = Lesson().run()
    assert "could not be kept" in capsys.readouterr().out
    assert len(trainable_parameters(model)) == 2


def test_without_a_home_it_trains_and_says_that_it_keeps_nothing(monkeypatch, capsys):
    monkeypatch.setenv("PEFT_LESSONS_HOME", "relative")
    lesson = Lesson()
    _, history = lesson.run()
    assert lesson.calls == 1 and history.losses
    assert "What is trained here will not be kept" in capsys.readouterr().out
