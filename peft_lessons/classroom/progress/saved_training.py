"""Training that a student need not repeat: what a lesson trained is kept beside the progress, and loaded next time."""

import dataclasses
import hashlib
import json
from collections.abc import Callable
from pathlib import Path

from torch import nn

from peft_lessons.adapters import AdapterConfig, inject
from peft_lessons.checkpoints.files import load_adapter, save_adapter
from peft_lessons.classroom import progress
from peft_lessons.files import write_text
from peft_lessons.training import History

HISTORY_FILE = "history.json"


def trained_once(
    name: str, model: nn.Module, config: AdapterConfig, training: Callable[[], History], on: object = None
) -> History:
    """Inject `config` into `model` and call `training`, or load what an earlier call with the same arguments kept.

    `on` is whatever else the result depends on, such as the examples and the number of steps: with other ones it is
    trained anew. Kept are the adapter and the history, in the folder `kept_folder(name, config, on)`; delete it to
    train again. Training that was interrupted is not kept. A folder that cannot be read is put aside under another
    name, never deleted; one that cannot be written is said so, and the lesson goes on with what was trained.
    """
    try:
        folder = kept_folder(name, config, on)
    except OSError as error:
        inject(model, config)
        print(f"What is trained here will not be kept: {error}")
        return training()
    if (folder / HISTORY_FILE).is_file():
        try:
            history = History(**json.loads((folder / HISTORY_FILE).read_text(encoding="utf-8")))
            load_adapter(model, folder)
        except (OSError, TypeError, ValueError) as error:
            print(f"What was kept cannot be read ({error}).\nIt now lies in {_put_aside(folder)}; training again.")
        else:
            print(f"Loaded what you trained before. To train again, delete {folder}")
            return history
    inject(model, config)
    history = training()
    if not history.interrupted:
        try:
            save_adapter(model, config, folder)
            write_text(folder / HISTORY_FILE, json.dumps(dataclasses.asdict(history)))  # last: now all is there
        except OSError as error:
            print(f"What was trained could not be kept in {folder}: {error}")
    return history


def kept_folder(name: str, config: AdapterConfig, on: object = None) -> Path:
    """Where `trained_once` keeps the adapter: another config, or other data, has another folder."""
    digest = hashlib.sha256(repr((config, on)).encode()).hexdigest()[:8]
    return progress.home() / "trained" / f"{name}-{digest}"


def _put_aside(folder: Path) -> Path:
    number = 1
    while (aside := folder.with_name(f"{folder.name}.unreadable-{number}")).exists():
        number += 1
    return folder.rename(aside)
