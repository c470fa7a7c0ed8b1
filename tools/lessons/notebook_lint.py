"""What `pytest --nbval` cannot see in a stored notebook, as rules over its JSON.

nbval compares texts of cells that were run. It passes cleared cells, pictures, widget views, stderr under another name
and everything in prose. Each rule below is a generator over one notebook that yields a sentence for each fault.
The rules for a lesson's parts and for the numbers in its prose are in lesson_lint.py.
"""

import re
from collections.abc import Callable, Iterator
from typing import Any

import ipywidgets
from nbformat import NotebookNode

WIDGET_VIEW = "application/vnd.jupyter.widget-view+json"
WIDGETS = {
    name
    for name, value in vars(ipywidgets).items()
    if isinstance(value, type) and issubclass(value, ipywidgets.Widget | ipywidgets.interactive)
}
ADDRESS = re.compile(r"\b0x[0-9a-fA-F]{6,}\b")
NOISE = re.compile(r"(?<!≈ )(?<!measured )(?<![\d.−-])[−-]?\d\.\d\de[−-]0?[5-9]\b")  # as `number` prints it
CLOCK = re.compile(r"\d(?: ?it/s|\.?\d*s/it)\b|\b(?:Wall time|CPU times):")
IMAGE_TAG = re.compile(r"<img\b[^>]*>", re.IGNORECASE)
ALT_TEXT = re.compile(r"""\balt\s*=\s*(?:"[^"]*\w[^"]*"|'[^']*\w[^']*')""", re.IGNORECASE)
MARKDOWN_IMAGE_WITHOUT_ALT = re.compile(r"!\[\s*\]\(")
MACHINE_PATH = re.compile(
    r"(?<![\w.+/=-])(?:/(?:home|root|work|tmp|Users|private|var/folders)/|[A-Za-z]:\\+Users\\)\S*"
)


def cells(notebook: NotebookNode, kind: str = "") -> Iterator[tuple[int, NotebookNode]]:
    """Yield (number, cell) for every cell, or for those of one kind; numbers count all cells from 0."""
    for number, cell in enumerate(notebook.cells):
        if not kind or cell.cell_type == kind:
            yield number, cell


def name_of(number: int, cell: NotebookNode) -> str:
    """Return what a message calls a cell: its number and the start of its text."""
    first = cell.source.strip().partition("\n")[0]
    return f"cell {number} ({first[:50]})"


def tags_of(cell: NotebookNode) -> set[str]:
    return set(cell.metadata.get("tags", []))


def without_code(markdown: str) -> str:
    """Markdown without its fenced blocks and inline code."""
    without_blocks = re.sub(r"^(`{3,}|~{3,}).*?^\1\s*$", " ", markdown, flags=re.MULTILINE | re.DOTALL)
    return re.sub(r"(`+)(?!`).+?(?<!`)\1(?!`)", " ", without_blocks, flags=re.DOTALL)


def outputs(notebook: NotebookNode) -> Iterator[tuple[str, NotebookNode, dict[str, str]]]:
    """(name of the cell, output, the output's texts by kind) for every stored output."""
    for number, cell in cells(notebook, "code"):
        for output in cell.get("outputs", []):
            kinds: dict[str, Any] = dict(output.get("data", {}))
            kinds |= {kind: output[kind] for kind in ("text", "ename", "evalue", "traceback") if kind in output}
            texts = {kind: "".join(value) if isinstance(value, list) else str(value) for kind, value in kinds.items()}
            yield name_of(number, cell), output, texts


def comments(cell: NotebookNode) -> set[str]:
    """Return the comment markers of a cell (a line `# NBVAL_SKIP`), spelled as nbval's tags are."""
    lines = (line.strip() for line in cell.source.splitlines())
    return {line.lstrip("# ").lower().replace("_", "-") for line in lines if line.startswith("#")}


def widget_state(notebook: NotebookNode) -> Iterator[str]:
    if "widgets" in notebook.metadata:
        yield "widget state is saved in the notebook's metadata: GitHub refuses to render such a file"
    for name, output, _ in outputs(notebook):
        if WIDGET_VIEW in output.get("data", {}):
            yield f"{name}: a widget view is saved: a reader without a kernel sees only 'model not found'"


def run_in_order(notebook: NotebookNode) -> Iterator[str]:
    for expected, (number, cell) in enumerate(cells(notebook, "code"), start=1):
        name = name_of(number, cell)
        if not cell.source.strip():
            yield f"{name}: a code cell without code"
        if cell.get("execution_count") is None:
            yield f"{name}: was never run, so nbval compares nothing"
        elif cell.execution_count != expected:
            yield f"{name}: ran as number {cell.execution_count}, but stands as number {expected}"


def nothing_skipped(notebook: NotebookNode) -> Iterator[str]:
    for number, cell in cells(notebook, "code"):
        if "nbval-skip" in tags_of(cell) | comments(cell):
            yield f"{name_of(number, cell)}: nbval-skip: a cell that is not run proves nothing"


def ignored_with_reason(notebook: NotebookNode) -> Iterator[str]:
    for number, cell in cells(notebook, "code"):
        marks = tags_of(cell) | comments(cell)
        if marks & {"nbval-ignore-output", "pytest-validate-ignore-output"} and not cell.metadata.get("reason"):
            yield f'{name_of(number, cell)}: its output is ignored; say why in the cell\'s metadata, "reason": "…"'


def no_warnings(notebook: NotebookNode) -> Iterator[str]:
    for name, output, texts in outputs(notebook):
        if output.get("name") == "stderr":
            yield f"{name}: stderr in a stored output: {texts['text'].strip()[:200]!r}"


def no_errors(notebook: NotebookNode) -> Iterator[str]:
    for number, cell in cells(notebook, "code"):
        errors = [output for output in cell.get("outputs", []) if output.output_type == "error"]
        expected = tags_of(cell) & {"raises-exception", "nbval-raises-exception"}
        if errors and not expected:
            yield f"{name_of(number, cell)}: a stored error: {errors[0].ename}: {errors[0].evalue}"
        if expected and not errors:
            yield f"{name_of(number, cell)}: is tagged {expected.pop()}, but raises nothing"


def readable_without_kernel(notebook: NotebookNode) -> Iterator[str]:
    for name, _, texts in outputs(notebook):
        plain = texts.get("text/plain", "")
        rich = {"text/html", "text/markdown", "image/png", "image/svg+xml", "image/jpeg"} & texts.keys()
        widget = re.match(r"(\w+)\(", plain)
        if not rich and ((widget and widget[1] in WIDGETS) or re.match(r"<.* at 0x[0-9a-fA-F]+>", plain)):
            yield f"{name}: all that a reader without a kernel sees is {plain[:60]!r}"
    for name, _, texts in outputs(notebook):
        for kind, text in texts.items():
            if kind != "traceback" and (address := ADDRESS.search(text)):
                yield f"{name}: {kind} holds the address {address[0]}, which differs at every run"


def no_clock(notebook: NotebookNode) -> Iterator[str]:
    for name, _, texts in outputs(notebook):
        for kind, text in texts.items():
            if clock := CLOCK.search(text):
                yield f"{name}: {kind} holds a time, which differs at every run: {clock[0]!r}"


def images_described(notebook: NotebookNode) -> Iterator[str]:
    for name, _, texts in outputs(notebook):
        html = texts.get("text/html", "")
        pictures = {kind for kind in texts if kind.startswith("image/")}
        if pictures and not any(ALT_TEXT.search(tag) for tag in IMAGE_TAG.findall(html)):
            yield f"{name}: {pictures.pop()} without a twin <img alt=…> in text/html: use figure(fig, alt=…)"
        for kind in ("text/html", "text/markdown"):
            yield from _undescribed(name, texts.get(kind, ""))
    for number, cell in cells(notebook, "markdown"):
        yield from _undescribed(name_of(number, cell), without_code(cell.source))


def _undescribed(name: str, text: str) -> Iterator[str]:
    tags = IMAGE_TAG.findall(text)
    if MARKDOWN_IMAGE_WITHOUT_ALT.search(text) or not all(ALT_TEXT.search(tag) for tag in tags):
        yield f"{name}: an image without alternative text"


def noise_is_marked(notebook: NotebookNode) -> Iterator[str]:
    for name, _, texts in outputs(notebook):
        if found := NOISE.search(texts.get("text/plain", "")):
            yield f"{name}: {found[0]} is as small as rounding errors, which differ by machine: use Measured, or round"


def no_semicolon(notebook: NotebookNode) -> Iterator[str]:
    for number, cell in cells(notebook, "code"):
        if cell.source.rstrip().endswith(";"):
            yield f"{name_of(number, cell)}: ends in ';', which hides the output here and not under nbval"


def no_machine_paths(notebook: NotebookNode) -> Iterator[str]:
    for number, cell in cells(notebook):
        if found := MACHINE_PATH.search(cell.source):
            yield f"{name_of(number, cell)}: a path of one machine: {found[0][:80]!r}"
    for name, _, texts in outputs(notebook):
        for kind, text in texts.items():
            if found := MACHINE_PATH.search(text):
                yield f"{name}: {kind} holds a path of one machine: {found[0][:80]!r}"


RULES: tuple[Callable[[NotebookNode], Iterator[str]], ...] = (
    widget_state,
    run_in_order,
    nothing_skipped,
    ignored_with_reason,
    no_warnings,
    no_errors,
    readable_without_kernel,
    no_clock,
    images_described,
    noise_is_marked,
    no_semicolon,
    no_machine_paths,
)


def problems(notebook: NotebookNode) -> list[str]:
    """Return what every rule of this file says of the notebook."""
    return [problem for rule in RULES for problem in rule(notebook)]
