"""Write files that are there whole or not at all, and read the paths that a user gives."""

import os
import tempfile
from collections.abc import Callable
from pathlib import Path


def user_path(path: str) -> Path:
    """`path` with ~ and ~name replaced. Raises OSError where that leads to no home: a user may have no account."""
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise OSError(f"{path} leads to no home: this user has none, or nobody has that name") from error


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` fill a file beside `path`, then rename it: a reader sees the old file or the new, never half."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    os.close(handle)
    temporary = Path(name)
    try:
        write(temporary)
        temporary.chmod(0o644)  # mkstemp makes files that only their owner reads
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_bytes(path: Path, content: bytes) -> None:
    """Write `content` to `path`, atomically."""
    write_atomically(path, lambda unfinished: unfinished.write_bytes(content))


def write_text(path: Path, text: str) -> None:
    """Write `text` to `path` as UTF-8, atomically."""
    write_atomically(path, lambda unfinished: unfinished.write_text(text, encoding="utf-8", newline="\n"))
