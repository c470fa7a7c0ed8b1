"""What files and texts of strangers can do: docs/security.md says it, and this shows it.

Progress files of strangers are in test_class_report.py, a `config.json` also in test_accounting_config.py, a student
who would read another's files on a class server in hub/test_class_server.py.
"""

import ast
import json
import pickle
import re
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from peft_lessons import LoRAConfig, inject, load_adapter, save_adapter
from peft_lessons.accounting import shape_from_config
from peft_lessons.checkpoints.files import CONFIG_FILE, WEIGHTS_FILE, read_config

ROOT = Path(__file__).resolve().parents[1]
EVIL = "<img src=x onerror=alert(1)></script><script>alert(2)</script>"


class Code:
    """What a pickle would run when it is read."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def base():
    torch.manual_seed(0)
    return nn.ModuleDict({"q_proj": nn.Linear(8, 8)})


@pytest.fixture
def adapter(tmp_path):
    config = LoRAConfig(rank=2, targets=("q_proj",))
    return save_adapter(inject(base(), config), config, tmp_path / "adapter")


def change(adapter, **settings):
    path = adapter / CONFIG_FILE
    path.write_text(json.dumps(json.loads(path.read_text()) | settings))


# Adapters


def test_a_pickle_is_never_read(adapter, tmp_path):
    """Neither in the place of the weights, nor under the name of theirs, nor as the settings."""
    marker = tmp_path / "ran"
    weights = adapter / WEIGHTS_FILE
    kept = weights.read_bytes()
    weights.rename(adapter / "adapter_model.bin")
    (adapter / "adapter_model.bin").write_bytes(pickle.dumps(Code(marker)))
    with pytest.raises(FileNotFoundError, match="never pickled"):
        load_adapter(base(), adapter)
    weights.write_bytes(pickle.dumps(Code(marker)))
    with pytest.raises(ValueError, match="not a readable safetensors file"):
        load_adapter(base(), adapter)
    weights.write_bytes(kept)
    (adapter / CONFIG_FILE).write_bytes(pickle.dumps(Code(marker)))
    with pytest.raises(ValueError, match="not readable JSON"):
        load_adapter(base(), adapter)
    assert not marker.exists()


def test_the_package_neither_unpickles_nor_evaluates():
    """But for the exercises, which build the course's own sources."""
    forbidden = {"pickle", "marshal", "shelve", "dill", "yaml"}
    found = []
    for path in (ROOT / "peft_lessons").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import | ast.ImportFrom):
                names = {alias.name for alias in node.names} | {getattr(node, "module", None)}
                found += [f"{path.name} imports {name}" for name in names & forbidden]
            if isinstance(node, ast.Call) and ast.unparse(node.func) in ("eval", "exec", "torch.load", "np.load"):
                found.append(f"{path.parent.name} calls {ast.unparse(node.func)}")
    assert found == ["exercises calls exec"]


def test_settings_cannot_name_other_files(adapter, tmp_path):
    """The base's name is a text to the loader: it opens the two files in the folder and no other."""
    secret = tmp_path / "secret.json"
    secret.write_text("{")  # whoever read it as JSON would fail
    for name in (str(secret), "../secret.json", "file:///etc/passwd"):
        change(adapter, base_model_name_or_path=name, revision=name, auto_mapping={"parent_library": name})
        load_adapter(base(), adapter)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"r": 10**9}, r"rank is 1,000,000,000, but no tensor"),
        ({"r": 10**30}, "rank"),
        ({"r": -1}, "rank"),
        ({"r": "4"}, "r"),
        ({"lora_alpha": 1e999}, "alpha"),
        ({"target_modules": ["q_proj"] * 3 + ["../q_proj"]}, "q_proj"),
        ({"peft_type": "__import__"}, "supported"),
        ({"target_modules": "(" * 50}, "target_modules"),
        ({"target_modules": ".*" * 25 + "!"}, "target_modules must be .* repetitions"),
        ({"target_modules": ".?" * 40 + "!"}, "target_modules must be .* repetitions"),
        ({"target_modules": "(?x)#[\n(.+)+#]\n!"}, "target_modules must be .* comments"),
        ({"exclude_modules": "(.+)+!"}, "exclude_modules must be .* none of a group"),
        ({"rank_pattern": {"(.*){9}!": 2}}, "rank_pattern must be .* none of a group"),
    ],
)
def test_hostile_settings_are_refused_before_they_cost_memory(adapter, settings, words):
    change(adapter, **settings)
    model = base()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(ValueError, match=words):
        load_adapter(model, adapter)
    assert list(model.state_dict()) == list(before)


def test_settings_have_a_size_limit_and_depth_is_no_matter(adapter):
    (adapter / CONFIG_FILE).write_text(" " * ((1 << 20) + 1))
    with pytest.raises(ValueError, match="larger than 1,048,576 bytes"):
        read_config(adapter)
    (adapter / CONFIG_FILE).write_text("[" * 100_000)
    with pytest.raises(ValueError, match="not readable JSON"):
        read_config(adapter)


def test_weights_that_claim_more_than_they_hold_are_refused(adapter):
    header = json.dumps({"x": {"dtype": "F32", "shape": [10**9, 10**3], "data_offsets": [0, 4 * 10**12]}}).encode()
    (adapter / WEIGHTS_FILE).write_bytes(len(header).to_bytes(8, "little") + header)
    with pytest.raises(ValueError, match="not a readable safetensors file"):
        load_adapter(base(), adapter)
    (adapter / WEIGHTS_FILE).write_bytes((1 << 60).to_bytes(8, "little") + b"{}")
    with pytest.raises(ValueError, match="not a readable safetensors file"):
        load_adapter(base(), adapter)


def test_names_of_tensors_reach_no_other_parameter(adapter):
    """A tensor under a base's name does not replace the base."""
    tensors = {"base_model.model.q_proj.weight": torch.full((8, 8), 7.0)}
    save_file(tensors, adapter / WEIGHTS_FILE)
    model = base()
    before = model["q_proj"].weight.clone()
    with pytest.raises(ValueError, match="do not fit this model"):
        load_adapter(model, adapter)
    assert torch.equal(model["q_proj"].weight, before)


# A planner's config.json


@pytest.mark.parametrize(
    "content",
    [b"[" * 100_000, b" " * ((1 << 20) + 1), pickle.dumps({"model_type": "llama"}), b'{"model_type": "../../x"}'],
)
def test_a_hostile_config_is_refused(tmp_path, content):
    path = tmp_path / "config.json"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"config\.json"):
        shape_from_config(path)


# Texts in cards and widgets


def shown(capture):
    """All HTML and Markdown that was displayed, and every text that a widget's front end writes as HTML."""
    texts = []
    for output in capture.outputs:
        texts += [output.data.get("text/html", ""), output.data.get("text/markdown", "")]
    return "\n".join(texts)


@pytest.fixture
def shell(tmp_path, monkeypatch):
    from IPython.core.interactiveshell import InteractiveShell

    monkeypatch.setenv("PEFT_LESSONS_HOME", str(tmp_path / "home"))
    yield InteractiveShell.instance()
    InteractiveShell.clear_instance()


def everything_that_shows_text():
    from IPython.display import display

    from peft_lessons.classroom import Frame, claim, compare, figure, live_figure, new_figure, show, sweep, table
    from peft_lessons.classroom.output.cards import Card

    claim(EVIL, 1, equals=1, source=EVIL)
    table([[EVIL, 1]], [EVIL, "n"], caption=EVIL)
    figure(new_figure()[0], alt=EVIL, caption=EVIL)
    display(Card("note", EVIL, (EVIL,)))
    made = []

    def frame(a):
        return Frame(series={EVIL: [1.0, 2.0]}, readouts={EVIL: EVIL})

    words = {"title": EVIL, "caption": EVIL, "alt": EVIL}
    made.append(sweep(frame, settings={"a": (1, 2)}, x=[1, 2], x_label=EVIL, y_label=EVIL, **words))
    made.append(
        live_figure(lambda axes: axes.plot([0, 1])[0], lambda _, a: {EVIL: EVIL}, settings={"a": (1, 2)}, **words)
    )
    made.append(compare(lambda question: {EVIL: EVIL}, question=EVIL, label=EVIL))
    display(*made)
    show(nn.Linear)
    return made


@pytest.mark.usefixtures("shell")
def test_no_text_becomes_an_element():
    from IPython.utils.capture import capture_output

    with capture_output() as capture:
        widgets = everything_that_shows_text()
    text = shown(capture)
    assert "alert(1)" in text, "the texts are there"
    assert "<img src=x" not in text and "<script" not in text
    for widget in widgets:
        for name in widget.keys:
            if name.endswith("html"):  # what sliders.js and quiz.js write as HTML
                assert "<img src=x" not in getattr(widget, name), name


def test_front_ends_write_as_html_only_what_python_has_escaped():
    """Each place is listed here with where its text comes from; a new one has to be."""
    known = {
        "quiz.js": 4,  # question and feedback: inline_html of the course's own bank
        "sliders.js": 1,  # caption_html: inline_html
        "predict.js": 1,  # question and options: inline_html; an empty drawing
        # verdict, hints: inline_html of messages and of the course; the solution: pygments; places: tools/site/alive.py
        "exercise_card.js": 4,
    }
    folder = ROOT / "peft_lessons/classroom"
    found = {
        path.name: len(re.findall(r"innerHTML|insertAdjacentHTML|outerHTML|document\.write", path.read_text()))
        for path in folder.rglob("*.js")
    }
    assert {name: count for name, count in found.items() if count} == known
    elsewhere = r"\beval\(|new Function|https?://(?!www\.w3\.org/2000/svg\")"  # the name of SVG leads nowhere
    assert not [path for path in folder.rglob("*.js") if re.search(elsewhere, path.read_text())]
    assert not [path for path in folder.rglob("*.css") if re.search(r"url\(|@import", path.read_text())]


NETWORK = {"aiohttp", "ftplib", "http", "httpx", "huggingface_hub", "requests", "smtplib", "socket", "urllib3"}


def code_of(path):
    """A module's source, or that of a notebook's cells without IPython's own lines."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".py":
        return text
    cells = [cell for cell in json.loads(text)["cells"] if cell["cell_type"] == "code"]
    return re.sub(
        r"^([ \t]*)[%!].*$", r"\1pass", "\n".join("".join(cell["source"]) for cell in cells), flags=re.MULTILINE
    )


def test_only_the_hub_is_asked_and_only_to_load_a_model():
    """Neither the package nor a lesson sends anything to another computer.

    server.py asks the JupyterLab it started, serving.py whether a port of this computer is free; served.py and lesson
    15 ask the server that serving.py started, which listens on 127.0.0.1 alone.
    """
    found = set()
    for path in [*(ROOT / "peft_lessons").rglob("*.py"), *(ROOT / "notebooks").glob("*.ipynb")]:
        for node in ast.walk(ast.parse(code_of(path))):
            names = {alias.name for alias in node.names} if isinstance(node, ast.Import) else set()
            if isinstance(node, ast.ImportFrom):
                names = {f"{node.module}.{alias.name}" for alias in node.names}
            if isinstance(node, ast.Attribute):
                names = {ast.unparse(node)}
            found |= {
                f"{path.name}: {name}"
                for name in names
                if name.split(".")[0] in NETWORK or name.startswith(("urllib.request", "torch.hub"))
            }
    assert {name.partition(":")[0] for name in found} == {
        *("hub.py", "server.py", "serving.py", "served.py", "15_out_of_the_notebook.ipynb"),
    }, found


def test_the_server_listens_on_this_computer_alone_and_asks_for_a_token():
    jupyter = ROOT / "peft_lessons/jupyter"
    source = (jupyter / "config.py").read_text()
    assert 'c.ServerApp.ip = "127.0.0.1"' in source
    for path in (ROOT / "Makefile", *jupyter.glob("*.py")):
        assert not re.search(r"token=(?:''|\"\")|disable_check_xsrf|allow_origin|password=''", path.read_text()), path


def test_loading_only_reads(tmp_path, adapter):
    """A folder is only read: loading changes nothing in it."""
    copy = shutil.copytree(adapter, tmp_path / "copy")
    before = {path.name: path.read_bytes() for path in copy.iterdir()}
    load_adapter(base(), copy)
    assert {path.name: path.read_bytes() for path in copy.iterdir()} == before
