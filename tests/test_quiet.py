"""What other libraries say when they are imported does not reach a lesson's outputs; errors do."""

import subprocess
import sys

import pytest

LIBRARY = """
import logging, warnings
logging.getLogger("chatty").warning("Failed to load CPU gemm_4bit_forward")
logging.getLogger("chatty").error("a real error")
warnings.warn("will change some day")
"""
LESSON = """
import logging, warnings
from peft_lessons.classroom import quietly
with quietly():
    import chatty
logging.getLogger("chatty").warning("afterwards")
warnings.warn("afterwards, too")
"""


@pytest.mark.slow
def test_only_errors_are_heard_and_only_inside(tmp_path):
    (tmp_path / "chatty.py").write_text(LIBRARY)
    said = subprocess.run([sys.executable, "-c", LESSON], cwd=tmp_path, capture_output=True, text=True).stderr
    assert "gemm_4bit" not in said and "some day" not in said
    assert "a real error" in said and "afterwards\n" in said and "afterwards, too" in said
