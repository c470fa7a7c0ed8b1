"""A class on one machine: eight students at once, kept apart, and nothing lost when something is killed.

The tests build on each other: everybody logs in and works, then one thing after another is killed.
"""

import os
import pwd
import re
import signal
import sqlite3
import statistics
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import psutil
import pytest
import requests
from conftest import NAMES, ROOT
from student import Kernel, code_cells

from peft_lessons.lessons.questions import load_question

pytestmark = pytest.mark.hub
LESSON = "00_start_here.ipynb"
QUESTION = "00-claim"
ADA, BOB = NAMES[:2]


def home(name):
    return Path(pwd.getpwnam(name).pw_dir)


def work(name):
    return home(name) / "peft-lessons"


def verdicts(name):
    store = home(name) / ".local/share/peft-lessons/progress.sqlite3"
    with closing(sqlite3.connect(f"file:{store}?mode=ro", uri=True)) as connection:
        rows = connection.execute("SELECT outcome FROM events WHERE item = ? ORDER BY id", [QUESTION])
        return [outcome for (outcome,) in rows]


def processes(name):
    """A student's processes, but for those that have ended and that nobody has buried yet."""
    uid = pwd.getpwnam(name).pw_uid
    every = psutil.process_iter(["uids", "status", "cmdline"])
    return [p for p in every if p.info["uids"].real == uid and p.info["status"] != psutil.STATUS_ZOMBIE]


def comes_to_work(student):
    """From login to the first output; returns the seconds that it took and the kernel."""
    started = time.monotonic()
    student.log_in()
    student.start()
    kernel = student.kernel()
    assert kernel.printed("print('hello')") == "hello"
    return time.monotonic() - started, kernel


def memory(name):
    """Bytes of a student's processes: what is theirs alone, where the system tells, else all that is resident."""
    total = 0
    for process in processes(name):
        try:
            total += process.memory_full_info().uss
        except psutil.NoSuchProcess:  # it has ended meanwhile
            continue
        except (psutil.Error, OSError, NotImplementedError):
            total += process.memory_info().rss
    return total


@pytest.fixture(scope="module")
def kernels():
    """{name: the student's kernel}, filled by the first tests."""
    return {}


def test_one_student_logs_in_and_works(class_, kernels, record_property):
    seconds, kernels[ADA] = comes_to_work(class_[ADA])
    print(f"one student: {seconds:.1f} s from login to the first output")
    record_property("seconds", seconds)
    assert (work(ADA) / LESSON).is_file(), "the lessons were copied into the home"
    assert "ipc" in kernels[ADA].printed(
        "import ipykernel.connect, json; print(json.load(open(ipykernel.connect.get_connection_file()))['transport'])"
    )


def test_eight_at_once_each_run_a_lesson_and_answer_a_quiz(class_, kernels, record_property):
    def works(name):
        if name in kernels:
            seconds = None
        else:
            seconds, kernels[name] = comes_to_work(class_[name])
        kernel, cells = kernels[name], code_cells(work(name) / LESSON)
        (quiz,) = [cell for cell in cells if f'quiz("{QUESTION}"' in cell]
        for cell in cells:
            kernel.run(cell)
        wrong = next(option.letter for option in load_question(QUESTION).options if not option.correct)
        kernel.answer(quiz, wrong)
        kernel.answer(quiz, load_question(QUESTION).key)
        return seconds

    with ThreadPoolExecutor(len(NAMES)) as pool:
        seconds = [value for value in pool.map(works, NAMES) if value is not None]
    assert [verdicts(name) for name in NAMES] == [["incorrect", "correct"]] * len(NAMES)
    taken = [memory(name) for name in NAMES]
    half, last = statistics.median(seconds), max(seconds)
    print(f"seven more at once: {half:.1f} s from login to the first output, {last:.1f} s for the last of them")
    megabytes = [bytes_ / 1e6 for bytes_ in taken]
    print(f"memory of a student in lesson 00: {statistics.median(megabytes):.0f} MB, at most {max(megabytes):.0f} MB")
    record_property("memory", taken)


def test_a_wrong_password_is_refused(hub, class_):
    stranger = type(class_[ADA])(hub.url, ADA, "wrong")
    with pytest.raises(AssertionError, match="refused the login"):
        stranger.log_in()


def test_nobody_reaches_anothers_server(class_):
    ada, bob = class_[ADA], class_[BOB]
    for path in ("api/contents", "api/kernels", "lab", "files/00_start_here.ipynb"):
        assert ada.session.get(f"{bob.server}/{path}").status_code == 403, path
    assert bob.get("contents").ok
    assert requests.get(f"{bob.server}/api/contents").status_code == 403, "without a login"


def test_nobody_reads_or_writes_what_is_not_theirs(class_, kernels):
    """Through code in a kernel, past all of Jupyter."""
    bob = home(BOB)
    refused = """
def tries(action):
    try:
        action()
    except (PermissionError, ProcessLookupError) as error:
        return type(error).__name__
    return "done"
import os, pathlib
print([tries(lambda: os.listdir({home!r})), tries(lambda: open({store!r}).read()),
       tries(lambda: open({lesson!r}, "a")), tries(lambda: os.kill({process}, 9)),
       tries(lambda: (pathlib.Path({course!r}) / "notebooks/00_start_here.ipynb").open("a")),
       tries(lambda: (pathlib.Path({course!r}) / "peft_lessons/new.py").write_text(""))])
""".format(
        home=str(bob),
        store=str(bob / ".local/share/peft-lessons/progress.sqlite3"),
        lesson=str(work(BOB) / LESSON),
        process=processes(BOB)[0].pid,
        course=str(ROOT),
    )
    assert kernels[ADA].printed(refused) == str(["PermissionError"] * 6)
    assert processes(BOB)
    modes = {path: path.stat().st_mode & 0o077 for path in (work(BOB), bob / ".local/share/peft-lessons")}
    assert set(modes.values()) == {0}, "even if the home were open"


def test_nobody_takes_all_memory(hub, kernels):
    taken = kernels[ADA].printed(
        """
import torch
try:
    torch.zeros(5 * 1024**3, dtype=torch.uint8)
except (MemoryError, RuntimeError) as error:
    print("refused:", type(error).__name__)
print(torch.zeros(8).sum().item())
"""
    )
    assert re.fullmatch(r"refused: (MemoryError|RuntimeError)\n0\.0", taken)


def test_a_killed_kernel_loses_no_progress(class_, kernels):
    ada = class_[ADA]
    pid = int(kernels[ADA].printed("import os; print(os.getpid())"))
    os.kill(pid, signal.SIGKILL)
    kernels[ADA] = ada.kernel()
    question = load_question(QUESTION)
    holds = next(option.correct for option in question.options if option.evidence)
    kernels[ADA].run(f'from peft_lessons.classroom import evidence, quiz\nevidence("{QUESTION}", {holds})')
    kernels[ADA].answer(f'quiz("{QUESTION}")', question.key)
    assert verdicts(ADA)[:2] == ["incorrect", "correct"]


def test_a_killed_server_loses_neither_progress_nor_work(class_, kernels):
    ada = class_[ADA]
    notebook = ada.get(f"contents/{LESSON}").json()["content"]
    notebook["cells"][1]["source"] = "mine"
    saved = ada.send("PUT", f"contents/{LESSON}", type="notebook", format="json", content=notebook)
    assert saved.ok, saved.text[:300]
    before = verdicts(ADA)
    (server,) = [p for p in processes(ADA) if "jupyterhub.singleuser" in (p.info["cmdline"] or [])]
    server.kill()
    give_up = time.monotonic() + 60
    while ada.session.get(f"{ada.server}/api/status").status_code == 200 and time.monotonic() < give_up:
        time.sleep(0.5)
    ada.start()
    assert ada.get(f"contents/{LESSON}").json()["content"]["cells"][1]["source"] == "mine"
    assert verdicts(ADA) == before
    assert ada.kernel().printed("print('again')") == "again"


def test_a_killed_hub_loses_nothing_and_ends_nobodys_work(hub, class_, kernels):
    bob = class_[BOB]
    kernels[BOB].run("kept = 'in memory'")
    before = {name: verdicts(name) for name in NAMES}
    hub.kill()
    hub.start()
    bob.log_in()
    bob.start()
    assert Kernel(bob, kernels[BOB].id).printed("print(kept)") == "in memory"
    assert {name: verdicts(name) for name in NAMES} == before


def test_idle_servers_are_looked_for(hub):
    commands = [" ".join(process.info["cmdline"] or []) for process in psutil.process_iter(["cmdline"])]
    assert any("jupyterhub_idle_culler --timeout=3600" in command for command in commands)
    assert "403" not in [line for line in hub.log.read_text().splitlines() if "cull" in line]
