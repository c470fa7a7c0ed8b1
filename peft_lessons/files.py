"""Write files that are there whole or not at all, and read the paths that a user gives."""

import os
import secrets
from collections.abc import Callable
from pathlib import Path


def user_path(path: str) -> Path:
    """`path` with ~ and ~name replaced. Raises OSError where that leads to no home: a user may have no account."""
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise OSError(f"{path} leads to no home: this user has none, or nobody has that name") from error


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` fill a file beside `path`, then rename it: a reader sees the old file or the new, never half.

    The new file is on the disk before it takes the old one's place, so that not even a loss of power leaves half.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")  # named before it is there: nothing can leak
    try:
        write(temporary)
        with temporary.open("rb+") as written:
            os.fsync(written.fileno())
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
