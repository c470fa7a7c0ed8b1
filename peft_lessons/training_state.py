"""What `train` keeps of a run, so that a run that stopped goes on as if it never had.

A step of training depends on the weights that train, on what the optimizer remembers of their gradients, on the buffers
that change (such as the running means of batch norm), on the random generators, and on the next batch. They go into one
file, `step-00000040.safetensors` after 40 steps, with the history and the settings of the run as JSON in its header.
The learning rate follows from the number of the step, and the place in the data from counting batches.

It is one file, since two could be of different steps, and it is written whole or not at all. The two newest stay: of
processes that train together, one may be killed before it has written the newest.
"""

import hashlib
import json
import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from peft_lessons.adapters import named_adapters
from peft_lessons.files import write_atomically

NAME = f"step-{8 * '[0-9]'}.safetensors"
KEPT = 2  # files
MODEL, OPTIMIZER, GENERATOR = "model.", "optimizer.", "generator."  # what a tensor's name in the file begins with
MOMENTS = ("step", "exp_avg", "exp_avg_sq")  # what AdamW remembers of a parameter


@dataclass
class Stored:
    """What a file holds, read and checked, but not yet put to use."""

    path: Path
    tensors: dict[str, Tensor]
    facts: dict[str, Any]

    @property
    def history(self) -> dict[str, Any]:
        return self.facts["history"]


class TrainingState:
    """The state of a run, and its files in `folder`, which is made when absent.

    `settings` are what else makes the run the one that it is: a file of a run with other settings is refused.

    Raises:
        ValueError: when the optimizer trains what is no parameter of the model.
        OSError: when there can be no folder.
    """

    def __init__(
        self, folder: str | Path, model: nn.Module, optimizer: torch.optim.Optimizer, settings: Mapping[str, Any]
    ) -> None:
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        for half in self.folder.glob(f".{NAME}.*"):  # left by a process that was killed while it wrote
            half.unlink()
        self.optimizer = optimizer
        self.trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self.buffers = dict(model.named_buffers())
        frozen = {name: p for name, p in model.named_parameters() if not p.requires_grad}
        self.untrained = {name: fingerprint(tensor) for name, tensor in (frozen | self.buffers).items()}
        self.settings = _as_json(
            {
                **settings,
                "adapters": _adapter_settings(model),
                "trained": {name: [str(p.dtype), *_local(p).shape] for name, p in self.trained.items()},
                "groups": _groups(optimizer, self.trained),
            }
        )
        self.generators: dict[str, Any] = {}  # as they were after the last step; empty while a step is being made
        self.last: Any = None  # batch of that step
        self.saved = 0  # steps in the newest file

    def begin_step(self) -> None:
        """Say that from here on, what is in memory belongs to no whole step."""
        self.generators = {}

    def end_step(self, last: Any) -> None:
        """Say that the step is whole; `last` is its last batch. What draws random numbers later is not of this step."""
        self.generators, self.last = _generators(), last

    def save(self, history: Mapping[str, Any]) -> None:
        """Write a file of the last step, unless that step is not whole or in a file already. Raises OSError."""
        steps = len(history["losses"])
        if not self.generators or steps == self.saved:
            return
        changed = {name: buffer for name, buffer in self.buffers.items() if fingerprint(buffer) != self.untrained[name]}
        tensors = {MODEL + name: tensor for name, tensor in (self.trained | changed).items()}
        for name, parameter in self.trained.items():
            remembered = self.optimizer.state.get(parameter, {})
            tensors |= {f"{OPTIMIZER}{name}.{key}": value for key, value in remembered.items()}
        facts = {
            "settings": self.settings,
            "untrained": self.untrained,
            "history": history,
            "last": digest(self.last),
            "python": self.generators["python"],
            "numpy": self.generators["numpy"],
        }
        content = {name: _local(tensor.detach()).cpu().contiguous() for name, tensor in tensors.items()}
        content |= {GENERATOR + device: state for device, state in self.generators["torch"].items()}
        metadata = {"format": "pt", "run": json.dumps(facts, default=_plain)}
        write_atomically(path_of(self.folder, steps), lambda path: _save(content, path, metadata))
        self.saved = steps
        for old in files_in(self.folder)[:-KEPT]:
            old.unlink()

    def newest(self) -> Stored | None:
        """Read the newest file; None when there is none. Nothing changes.

        Raises:
            ValueError: when the file is damaged, or of another run than this one: the message says what differs.
        """
        if not (files := files_in(self.folder)):
            return None
        path = files[-1]
        try:
            with safe_open(path, "pt") as file:
                stored = Stored(path, {name: file.get_tensor(name) for name in file.keys()}, {})  # noqa: SIM118
                stored.facts |= json.loads(file.metadata()["run"])
            differences = list(self._differences(stored))
            if not differences:
                self._check_shapes(stored)
        except (SafetensorError, AttributeError, KeyError, TypeError, ValueError, RecursionError) as error:
            raise ValueError(f"{path} is damaged: {error!r}. Delete it to go on from an earlier step") from error
        if differences:
            listed = "; ".join(differences[:6]) + (f"; and {len(differences) - 6} more" if len(differences) > 6 else "")
            raise ValueError(
                f"{self.folder} holds a checkpoint of another run: {listed}. Train with its settings to go on with it, "
                "or into another folder"
            )
        return stored

    def restore(self, stored: Stored, last: Any) -> None:
        """Put what is stored to use. `last` is the last batch that was taken from the data in skipping what was seen.

        Raises ValueError, and changes nothing, when the run that is stored saw another batch there.
        """
        if digest(last) != stored.facts["last"]:
            raise ValueError(
                f"{self.folder} holds a checkpoint of training on other batches. Give `train` the same ones again, "
                "from the first on (made anew from the same data, with the same sizes and seed): it skips what was seen"
            )
        _set_generators(stored.facts | {"torch": _named(stored.tensors, GENERATOR)})
        moments: dict[Tensor, dict[str, Tensor]] = {}
        with torch.no_grad():
            for name, tensor in stored.tensors.items():
                if name.startswith(MODEL):
                    _local(self._holder(name.removeprefix(MODEL))).copy_(tensor)
                elif name.startswith(OPTIMIZER):
                    of, _, key = name.removeprefix(OPTIMIZER).rpartition(".")
                    parameter = self.trained[of]
                    moments.setdefault(parameter, {})[key] = _moment(parameter, key, tensor)
        self.optimizer.state.update(moments)
        self.untrained = stored.facts["untrained"]
        self.saved = len(stored.history["losses"])
        self.end_step(last)

    def _holder(self, name: str) -> Tensor:
        return self.trained[name] if name in self.trained else self.buffers[name]

    def _differences(self, stored: Stored) -> Iterator[str]:
        """Yield what makes the stored run another one, in words."""
        theirs = stored.facts["settings"]
        for key in theirs | self.settings:
            there, here = theirs.get(key), self.settings.get(key)
            if there != here:
                yield f"{key} {_differing(there, here)} there, {_differing(here, there)} here"
        for name in _named(stored.tensors, MODEL):
            if name not in self.trained and name not in self.buffers:
                yield f"{name} is there, but not in this model"
        theirs = stored.facts["untrained"]
        for name in theirs | self.untrained:
            if MODEL + name not in stored.tensors and theirs.get(name) != self.untrained.get(name):
                yield f"{name} has other values" if name in self.untrained.keys() & theirs else f"{name} is in one only"

    def _check_shapes(self, stored: Stored) -> None:
        """Raise ValueError unless what trains is all there, and each tensor has a place and its shape."""
        if len(stored.history["losses"]) != steps_of(stored.path):
            raise ValueError("its name says another step than its history")
        if missing := [name for name in self.trained if MODEL + name not in stored.tensors]:
            raise ValueError(f"{missing[0]} is missing")
        for name, tensor in stored.tensors.items():
            if name.startswith(MODEL):
                fits = tensor.shape == _local(self._holder(name.removeprefix(MODEL))).shape
            elif name.startswith(OPTIMIZER):
                of, _, key = name.removeprefix(OPTIMIZER).rpartition(".")
                shape = _local(self.trained[of]).shape
                fits = key in MOMENTS and tensor.shape == (() if key == "step" else shape)
            else:
                fits = name.startswith(GENERATOR)
            if not fits:
                raise ValueError(f"{name} of shape {tuple(tensor.shape)} fits nothing")


def files_in(folder: Path) -> list[Path]:
    """List the files of a run in a folder, oldest first."""
    return sorted(folder.glob(NAME))


def path_of(folder: Path, steps: int) -> Path:
    """Where the state after `steps` steps lies."""
    return folder / f"step-{steps:08}.safetensors"


def steps_of(path: Path) -> int:
    """How many steps a file's name says were made before it was written."""
    return int(path.stem.removeprefix("step-"))


def fingerprint(tensor: Tensor) -> int:
    """Sum a tensor's bytes, taken eight at a time as one number: other values all but surely have another sum."""
    data = _local(tensor.detach()).contiguous().flatten().view(torch.uint8)
    if data.storage_offset() % 8:
        data = data.clone()  # eight bytes are read at once only from multiples of eight
    whole = len(data) // 8 * 8
    return int(data[:whole].view(torch.int64).sum()) + int(data[whole:].sum())


def digest(batch: Any) -> str:
    """Hash the tensors in a batch."""
    sha = hashlib.sha256()
    for part in batch.values() if isinstance(batch, Mapping) else batch:
        if isinstance(part, Tensor):
            sha.update(f"{part.dtype}{tuple(part.shape)}".encode())
            sha.update(part.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return sha.hexdigest()


def _save(tensors: dict[str, Tensor], path: Path, metadata: dict[str, str]) -> None:
    try:
        save_file(tensors, path, metadata)
    except SafetensorError as error:  # what it makes of a full disk
        raise OSError(f"the checkpoint cannot be written to {path.parent}: {error}") from error


def _generators() -> dict[str, Any]:
    """Return the states of all random generators that a model, a loss or a hook may draw from."""
    devices = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        devices |= {f"cuda:{index}": state for index, state in enumerate(torch.cuda.get_rng_state_all())}
    if torch.backends.mps.is_available():
        devices["mps"] = torch.mps.get_rng_state()
    return {"torch": devices, "python": random.getstate(), "numpy": np.random.get_state(legacy=False)}


def _set_generators(states: dict[str, Any]) -> None:
    for device, state in states["torch"].items():
        if device == "cpu":
            torch.set_rng_state(state)
        elif device == "mps":
            torch.mps.set_rng_state(state)
        else:
            torch.cuda.set_rng_state(state, device)
    version, numbers, gauss = states["python"]
    random.setstate((version, tuple(numbers), gauss))
    np.random.set_state(states["numpy"])


def _moment(parameter: nn.Parameter, key: str, tensor: Tensor) -> Tensor:
    """Return a tensor of the optimizer as it makes it itself: beside its parameter, and in shards where that is."""
    if key == "step":
        return tensor.to(parameter.device)
    moment = torch.empty_like(parameter, dtype=tensor.dtype, requires_grad=False)
    _local(moment).copy_(tensor)
    return moment


def _adapter_settings(model: nn.Module) -> dict[str, list[str]]:
    """Return the values that each field of the adapters' configs has, by name, such as LoRAConfig.alpha."""
    found: dict[str, set[str]] = {}
    for config in (layer.config for _, layer in named_adapters(model)):
        for name, value in vars(config).items():
            found.setdefault(f"{type(config).__name__}.{name}", set()).add(repr(value))
    return {name: sorted(values) for name, values in found.items()}


def _groups(optimizer: torch.optim.Optimizer, trained: Mapping[str, nn.Parameter]) -> list[dict[str, Any]]:
    """Return the optimizer's groups with their parameters' names. Raises ValueError for one that is not `trained`."""
    names = {parameter: name for name, parameter in trained.items()}
    if any(parameter not in names for group in optimizer.param_groups for parameter in group["params"]):
        raise ValueError("a checkpoint keeps the model's parameters, but `groups` has others, which would be lost")
    return [group | {"params": [names[p] for p in group["params"]]} for group in optimizer.param_groups]


def _local(tensor: Tensor) -> Tensor:
    """Return this process's shard of a tensor that is sharded; any other tensor as it is."""
    return tensor.to_local() if hasattr(tensor, "to_local") else tensor  # type: ignore[operator]


def _named(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _differing(value: Any, other: Any) -> str:
    """Put a setting into words; of a table only the rows that `other` has not."""
    if isinstance(value, dict) and isinstance(other, dict):
        value = {key: row for key, row in value.items() if other.get(key) != row}
    return f"{value!r:.160}"


def _plain(value: Any) -> Any:
    """Turn what JSON does not know into what it does: arrays and tensors into lists or numbers, all else into words."""
    return value.tolist() if hasattr(value, "tolist") else repr(value)


def _as_json(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings as they come back from a file."""
    return json.loads(json.dumps(settings, default=_plain))
