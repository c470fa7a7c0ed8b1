"""A plugin for pytest that gives nbval a run that has already taken place, instead of a kernel.

The run is a notebook, executed elsewhere, whose path the variable PEFT_LESSONS_RUN names. nbval then does all that it
does, cell by cell, but computes nothing.
"""

import os
from queue import Empty

import nbformat
import nbval.plugin


class RecordedKernel:
    """What nbval asks of a kernel, answered with the outputs of the run."""

    language = "python"

    def __init__(self, *_arguments, **_options):
        run = nbformat.read(os.environ["PEFT_LESSONS_RUN"], as_version=4)
        self.cells = iter([cell for cell in run.cells if cell.cell_type == "code"])
        self.messages = []

    def execute_cell_input(self, source, allow_stdin=None):
        cell = next(self.cells, None)
        if cell is None or cell.source != source:
            raise ValueError(f"the run has another cell here than the notebook: {cell and cell.source!r:.200}")
        outputs = [dict(output) for output in cell.outputs]
        kinds = [output.pop("output_type") for output in outputs]
        parent = {"msg_id": cell.id}
        self.messages = [
            {"msg_type": kind, "parent_header": parent, "content": output}
            for kind, output in zip(kinds, outputs, strict=True)
        ]
        self.messages.append({"msg_type": "status", "parent_header": parent, "content": {"execution_state": "idle"}})
        return cell.id

    def get_message(self, stream, timeout=None):
        if not self.messages:
            raise Empty
        return self.messages.pop(0)

    def await_reply(self, msg_id, timeout=None):
        pass

    def await_idle(self, parent_id, timeout):
        self.messages = []

    def is_alive(self):
        return True

    def stop(self):
        pass


nbval.plugin.RunningKernel = RecordedKernel
