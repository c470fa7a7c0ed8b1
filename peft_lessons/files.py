"""Write files that are there whole or not at all, and read the paths that a user gives."""

import os
import secrets
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

Content = TypeVar("Content")
WAITING = ".new"  # a folder in a folder: files that belong together, all written, on their way to their places


def user_path(path: str) -> Path:
    """`path` with ~ and ~name replaced. Raises OSError where that leads to no home: a user may have no account."""
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise OSError(f"{path} leads to no home: this user has none, or nobody has that name") from error


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` fill a file beside `path`, then rename it: a reader sees the old file or the new, never half.

    The new file is on the disk before it takes the old one's place, so that not even a loss of power leaves half.

    Raises:
        OSError: where no file can be, such as in a folder that is not there, or that `write` meets.
    """
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder: name a file in it")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"{path.parent} is no folder: make it first, then {path.name} can be written into it")
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")  # named before it is there: nothing can leak
    try:
        write(temporary)
        with temporary.open("rb+") as written:
            os.fsync(written.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_together(folder: Path, writers: Mapping[str, Callable[[Path], object]]) -> None:
    """Let each of `writers` fill the file of its name in `folder` (made when absent), all of them or none.

    The files are written beside and put into one folder, `WAITING`. Its renaming is the one moment from which the new
    files count, since `current` finds them there. Then each moves to its place. What an interruption leaves of this
    last step is read right, and moved by the next writer.
    """
    existed = folder.is_dir()
    folder.mkdir(parents=True, exist_ok=True)
    unfinished = Path(tempfile.mkdtemp(dir=folder, prefix=".unfinished-"))
    try:
        for name, write in writers.items():
            write(unfinished / name)
            (unfinished / name).chmod(0o644)
        unfinished.chmod(0o755)  # mkdtemp makes folders that only their owner reads
        _put_into_place(folder)  # what an interruption left
        os.replace(unfinished, folder / WAITING)
    except BaseException:
        shutil.rmtree(unfinished, ignore_errors=True)
        if not existed and not any(folder.iterdir()):
            folder.rmdir()
        raise
    try:
        _put_into_place(folder)
    except BaseException:
        _put_into_place(folder)  # other programs do not know of WAITING: leave as little as can be
        raise


def current(folder: Path, name: str) -> Path:
    """Return the file called `name` that `write_together` last wrote to `folder`, wherever it lies."""
    waiting = folder / WAITING / name
    return waiting if waiting.is_file() else folder / name


def read_together(folder: Path, names: Sequence[str], read: Callable[[], Content]) -> Content:
    """Return what `read` makes of the files with these `names` in `folder`, all of one writing of `write_together`.

    Reads again when a writer came between.
    """
    while True:
        before = _versions(folder, names)
        try:
            content = read()
        except (OSError, ValueError):
            if _versions(folder, names) == before:
                raise
        else:
            if _versions(folder, names) == before:
                return content


def _versions(folder: Path, names: Sequence[str]) -> list[tuple[Path, int, int] | None]:
    """Which files lie there, where, and when each was written; None for what is not there or just goes."""
    found: list[tuple[Path, int, int] | None] = []
    for name in names:
        path = current(folder, name)
        try:
            found.append((path, (status := path.stat()).st_ino, status.st_mtime_ns))
        except OSError:
            found.append(None)
    return found


def _put_into_place(folder: Path) -> None:
    waiting = folder / WAITING
    if waiting.is_dir():
        for path in list(waiting.iterdir()):
            os.replace(path, folder / path.name)
        waiting.rmdir()


def write_bytes(path: Path, content: bytes) -> None:
    """Write `content` to `path`, atomically."""
    write_atomically(path, lambda unfinished: unfinished.write_bytes(content))


def write_text(path: Path, text: str) -> None:
    """Write `text` to `path` as UTF-8, atomically."""
    write_atomically(path, lambda unfinished: unfinished.write_text(text, encoding="utf-8", newline="\n"))
