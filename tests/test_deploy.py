"""The class server's files agree with each other and with how the course is installed; tests/hub runs the thing."""

import re
from pathlib import Path

import pytest
import yaml
from traitlets.config import PyFileConfigLoader

ROOT = Path(__file__).resolve().parents[1]
DEPLOY = ROOT / "deploy"
GIB = 1024**3


@pytest.fixture(scope="module")
def hub():
    pytest.importorskip("jupyterhub")
    pytest.importorskip("resource", reason="Windows has no such limits, and no hub")
    return PyFileConfigLoader("jupyterhub_config.py", path=str(DEPLOY)).load_config()


@pytest.fixture(scope="module")
def values():
    return yaml.safe_load((DEPLOY / "values.yaml").read_text(encoding="utf-8"))


def test_one_machine_and_kubernetes_have_the_same_limits(hub, values):
    student = values["singleuser"]
    assert student["memory"]["limit"] == f"{hub.Spawner.mem_limit // GIB}G"
    assert student["cpu"]["limit"] == hub.Spawner.cpu_limit
    (service,) = hub.JupyterHub.services
    assert f"--timeout={values['cull']['timeout']}" in service["command"]
    assert student["extraEnv"] == dict(hub.Spawner.environment)


def test_passwords_are_the_machines_and_nothing_listens_to_the_world(hub):
    assert hub.JupyterHub.authenticator_class == "pam"
    assert hub.JupyterHub.bind_url.startswith("http://127.0.0.1:")
    assert hub.JupyterHub.cleanup_servers is False


def test_the_image_installs_the_course_as_make_does(values):
    image = re.sub(r"\\\n\s*", "", (DEPLOY / "Dockerfile").read_text(encoding="utf-8"))
    assert "pip install --no-cache-dir --constraint requirements/pins.txt --editable '.[class]'" in image
    assert "&& peft-lessons weights" in image
    assert re.search(r"^USER student$", image, re.MULTILINE), "not as root"
    home = re.search(r"^WORKDIR (/home/\w+)$", image, re.MULTILINE)[1]
    assert values["singleuser"]["storage"]["homeMountPath"] == home
    (program, script) = values["singleuser"]["cmd"]
    copied = re.search(r"^WORKDIR (/opt/[\w-]+)\nCOPY \. \.$", image, re.MULTILINE)[1]
    assert (program, script) == ("python", f"{copied}/deploy/student_server.py")


def test_what_stays_at_home_is_not_in_the_image():
    ignored = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    assert {".git", ".venv", "my_lessons", "my_class", ".class"} <= set(ignored)
