"""Files that are there whole or not at all."""

import os
from pathlib import Path

import pytest

from peft_lessons.files import write_atomically, write_bytes, write_text


def test_a_reader_sees_the_old_file_until_the_new_one_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    write_text(path, "old")

    def write(unfinished: Path) -> None:
        unfinished.write_text("new")
        assert path.read_text() == "old"
        assert unfinished.parent == tmp_path

    write_atomically(path, write)
    with path.open() as reader:
        write_text(path, "newest")
        assert reader.read() == "new"  # whoever has it open goes on reading the old one
    assert path.read_text() == "newest"
    write_bytes(path, b"newer")
    assert path.read_bytes() == b"newer"
    assert os.listdir(tmp_path) == ["notes.txt"]


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
def test_what_cannot_be_written_leaves_the_old_file_and_nothing_else(
    error: type[BaseException], tmp_path: Path
) -> None:
    path = tmp_path / "notes.txt"
    write_text(path, "old")

    def write(unfinished: Path) -> None:
        unfinished.write_text("half")
        raise error

    with pytest.raises(error):
        write_atomically(path, write)
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["notes.txt"]


@pytest.mark.skipif(os.name == "nt", reason="POSIX permissions")
def test_a_file_has_the_permissions_of_any_other(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        write_text(tmp_path / "ours", "")
        (tmp_path / "plain").write_text("")
    finally:
        os.umask(before)
    assert (tmp_path / "ours").stat().st_mode == (tmp_path / "plain").stat().st_mode


@pytest.mark.parametrize(("place", "error"), [("gone/notes.txt", FileNotFoundError), ("", IsADirectoryError)])
def test_where_no_file_can_be_is_said_in_the_users_own_names(tmp_path: Path, place: str, error: type[OSError]) -> None:
    path = tmp_path / place
    with pytest.raises(error, match="folder") as raised:
        write_text(path, "new")
    named = path if path == tmp_path else path.parent
    assert str(raised.value).startswith(str(named)) and "/." not in str(raised.value)
    assert os.listdir(tmp_path) == []
