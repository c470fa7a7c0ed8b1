"""The course as a site, alive without a kernel: `make site`, or `python -m tools.site.build_site [--out FOLDER]`.

The lessons are the stored notebooks, run by nobody here; alive.py gives their widgets a script that answers in the
page. Pages, styles, MathJax and the search index come from this computer: the build asks nothing of the network, and
neither do the pages. A warning of Sphinx, a link inside the site that leads nowhere, or a picture without a description
fails the build. What Sphinx cannot say of its pages, what loads late and what is kept for reading offline, is added.
"""

import argparse
import base64
import hashlib
import json
import os
import re
import shutil
import sys
import tempfile
import time
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import nbformat
from sphinx.cmd.build import main as sphinx_build

from peft_lessons.classroom.progress import contents
from peft_lessons.lessons.catalogue import lessons
from peft_lessons.lessons.glossary import as_data, glossary
from peft_lessons.lessons.parts import calls_any
from tools.lessons.notebooks import FIGURES, INSTALLS, NOTEBOOKS, sources
from tools.lessons.predictions import answers
from tools.site import alive, build_playground, lettering, styles
from tools.site.reference import methods_page

ROOT = Path(__file__).resolve().parents[2]
SITE = ROOT / "docs/site"
TERMS = ROOT / "peft_lessons/jupyter/labextensions/peft-lessons-page/static/glossary.js"
MATHJAX = ROOT / "tests/js/node_modules/mathjax/es5/tex-svg.js"
PICTURES = [  # of the lessons, on the front page
    ("01", "An adapter's dial"),
    ("04", "What fits into a rank"),
    ("02", "What training holds, and which card holds it"),
]
DOCUMENTS = {
    "monday.md": "docs/monday.md",
    "others.md": "docs/others.md",
    "instructors.md": "docs/instructors.md",
    "class.md": "docs/class.md",
    "security.md": "docs/security.md",
    "methods.md": "docs/methods.md",
    "transformers.md": "docs/transformers.md",
    "benchmarks.md": "docs/benchmarks.md",
    "benchmarks.svg": "docs/benchmarks.svg",
    "changelog.md": "CHANGELOG.md",
}


def on_the_site(text: str) -> str:
    """Return a document of the repository, its links turned to where things are on the site."""
    text = re.sub(r"\]\((?:\.\./)?notebooks/(\w+)\.ipynb", r"](../lessons/\1.ipynb", text)
    text = re.sub(r"\]\(\.\./CHANGELOG\.md\)", "](changelog.md)", text)
    text = re.sub(r"\]\(docs/(\w+\.md)", r"](\1", text)  # the changelog's, which lies beside them here

    def module(match: re.Match[str]) -> str:
        name = match[2].removesuffix(".py").replace("/", ".")
        return f"{{py:mod}}`{match[1].strip('`')} <{name}>`"

    return re.sub(r"\[([^\]]+)\]\(\.\./(peft_lessons/[\w/]+\.py)\)", module, text)


def terms_script() -> str:
    """Return the script that shows terms' meanings: JupyterLab's, but no module, so that it runs from a file, too."""
    shared = re.sub(r"^export ", "", TERMS.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return f"""(() => {{
{shared}
const terms = finder({json.dumps(as_data())});
if (!location.pathname.includes("/lessons/")) return;
const used = new Set();
for (const prose of document.querySelectorAll(".bd-article section > :is(p, ul, ol, table)"))
  mark(prose, terms, (term) => !used.has(term) && used.add(term));
showMeanings();
}})();
"""


def glossary_page() -> str:
    """Return the glossary as a page, the terms in the order of the alphabet."""
    rows = [f"**{term.name}**\n: {term.meaning}\n" for term in glossary()]
    return "\n".join(["# Glossary\n", *rows])


def index_page() -> str:
    """Return the front page: its text, with what is alive, counted or said in README in the places that it names."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    (table,) = re.findall(r"^\|.*?(?=\n\n)", readme, re.MULTILINE | re.DOTALL)
    counts = Counter[str]()
    for lesson in lessons():
        counts.update(contents.counted(NOTEBOOKS / lesson.notebook))
    places = {
        "SWITCH": alive.adapter_switch(),
        "LETTERING": lettering.before_and_after(),
        "LESSONS": table.replace("(notebooks/", "(lessons/"),
        "PICTURES": "\n".join(alive.named_figure(lesson, title) for lesson, title in PICTURES),
        "CHECKS": f"{counts['checks']:,}",
        "QUESTIONS": f"{len(alive.all_questions()):,}",
        "SOURCE": alive.source_link(),
    }
    page = (SITE / "index.md").read_text(encoding="utf-8")
    return re.sub(r"\b[A-Z]{5,}\b", lambda word: places.get(word[0], word[0]), page)


def gather(folder: Path) -> None:
    """Put the site's sources together in `folder`, which is empty."""
    shutil.copytree(SITE, folder, dirs_exist_ok=True)
    shutil.copy(MATHJAX, folder / "_static/mathjax.js")
    static = {
        "terms.js": terms_script(),
        "course.js": alive.site_script(),
        "course.css": alive.site_styles(),
        "questions.json": json.dumps(alive.all_questions(), ensure_ascii=False),
    }
    for name, content in static.items():
        (folder / "_static" / name).write_text(content, encoding="utf-8")
    (folder / "lessons").mkdir()
    for text in sources():
        notebook = nbformat.read(text.with_suffix(".ipynb"), as_version=4)
        notebook.cells = [
            cell for cell in notebook.cells if INSTALLS not in cell.metadata.get("tags", [])
        ]  # runs nothing
        for cell in notebook.cells:
            if cell.metadata.get("jupyter", {}).get("source_hidden"):
                asks = calls_any(cell.source, asks="itself") or calls_any(cell.source, asks="guess")
                only = asks or cell.source.startswith("progress_map(") or ".check(" in cell.source
                cell.metadata["tags"] = [*cell.metadata.get("tags", []), "remove-input" if only else "hide-input"]
        for cell in answers(notebook.cells):
            cell.metadata["tags"] = [*cell.metadata.get("tags", []), "hide-output"]
        for cell in notebook.cells:
            named = re.match(r"# (.*)\n", cell.source)  # folded code begins with a line that names it
            of = f": {named[1]}" if named else ""
            cell.metadata["mystnb"] = {f"code_prompt_{do}": f"{do.title()} the {{type}}{of}" for do in ("show", "hide")}
        alive.enliven(notebook, text)
        for output in (output for cell in notebook.cells for output in cell.get("outputs", [])):
            if "text/markdown" in output.get(
                "data", {}
            ):  # Sphinx turns links in prose by itself, in outputs it does not
                shown = output["data"]["text/markdown"]
                output["data"]["text/markdown"] = re.sub(r"\]\((\d\d_\w+)\.ipynb\)", r"](\1.html)", shown)
        nbformat.write(notebook, folder / "lessons" / f"{text.stem}.ipynb")
    (folder / "docs").mkdir()
    (folder / "docs/glossary.md").write_text(glossary_page(), encoding="utf-8")
    for name, path in DOCUMENTS.items():
        content = (ROOT / path).read_text(encoding="utf-8")
        (folder / "docs" / name).write_text(on_the_site(content), encoding="utf-8")
    (folder / "api/methods.md").write_text(methods_page(), encoding="utf-8")
    (folder / "index.md").write_text(index_page(), encoding="utf-8")


def finish(made: Path) -> None:
    """Add to the site that Sphinx made what its pages fetch, and let them load what is heavy last."""
    (made / ".nojekyll").touch()  # else GitHub's pages leave out folders that begin with an underscore
    (made / "figures").mkdir()
    for file in sorted(FIGURES.glob("*.json")):
        alive.write_figure(file, made)
    for text in sources():
        shutil.copy(text.with_suffix(".ipynb"), made / "lessons")
    (made / "_static/scripts/fontawesome.js").unlink()  # the theme's fonts have the same icons
    options = (made / "_static/documentation_options.js").read_text(encoding="utf-8")
    for page in made.rglob("*.html"):
        content = page.read_text(encoding="utf-8")
        if "course.js" in content:
            content = typeset(unpacked(content, page, made), page.relative_to(made))
            page.write_text(late(content, options), encoding="utf-8")
    styles.shrink(made)
    (made / "sw.js").write_text(offline_script(made), encoding="utf-8")


SCRIPT = re.compile(r'\s*<script\b[^>]*\bsrc="([^"?]*)([^"]*)"[^>]*></script>')
PRELOAD = re.compile(r'\s*<link rel="preload"[^>]*>')  # of scripts that come last
# The theme's "auto" is a light page until its script has asked the system.
THEME = 'localStorage.getItem("theme") || "auto"'
ASKED = THEME.replace('"auto"', '(matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light")')


PICTURE = re.compile(r'<img ([^>]*)src="data:image/(svg|png)(?:\+xml)?;base64,([^"]+)"')
SIZE = re.compile(rb'<svg[^>]* width="([\d.]+)(pt|)" height="([\d.]+)')
POINT = 4 / 3  # pixels


def unpacked(content: str, page: Path, made: Path) -> str:
    """Return a page's content with its pictures in files, which a browser fetches when the reader comes near them."""

    def placed(picture: re.Match[str]) -> str:
        attributes, kind, drawn = picture[1], picture[2], base64.b64decode(picture[3])
        file = made / "figures" / f"{hashlib.sha256(drawn).hexdigest()[:12]}.{kind}"
        file.write_bytes(drawn)
        if (size := SIZE.search(drawn)) and 'height="' not in attributes:  # its room is kept till it comes
            width, height = (float(side) * (POINT if size[2] else 1) for side in (size[1], size[3]))
            if given := re.search(r'width="(\d+)"', attributes):
                height *= int(given[1]) / width
            else:
                attributes += f'width="{width:.0f}" '
            attributes += f'height="{height:.0f}" '
        return f'<img {attributes}loading="lazy" src="{Path(os.path.relpath(file, page.parent)).as_posix()}"'

    return PICTURE.sub(placed, content)


SAID = re.compile(r'(<div class="peft-say">)(.*?)(</div>)', re.DOTALL)
# What myst writes into a page with formulas: MathJax looks at these places alone.
ONLY_FORMULAS = '<script>window.MathJax = {"options": {"processHtmlClass": "math"}}</script>'
FORMULA = re.compile(r"\$([^$<>]+)\$")


def typeset(page: str, path: Path) -> str:
    """Return a page on which formulas in what a lesson says are marked as Sphinx marks those of its text.

    A page without any other formula gets MathJax, too.
    """
    marked = SAID.sub(
        lambda said: said[1] + FORMULA.sub(r'<span class="math">\\(\1\\)</span>', said[2]) + said[3], page
    )
    if marked != page and "_static/mathjax.js" not in page:
        script = f'<script src="{"../" * (len(path.parts) - 1)}_static/mathjax.js"></script>'
        marked = marked.replace("</head>", f"{ONLY_FORMULAS}\n{script}\n</head>", 1)
    return marked


def late(page: str, options: str) -> str:
    """Return a page whose text waits for no script, and whose widgets for one; page.js loads all others after them.

    Sphinx's options of its scripts, a few words, stand in the page. The theme would load the index of the search in
    every page, to search while one types: here only the page of the search has it.
    """
    unwanted = () if 'id="search-results"' in page else ("searchtools.js", "language_data.js", "searchindex.js")
    listed = []

    def placed(script: re.Match[str]) -> str:
        name = script[1].rpartition("/")[2]
        if name == "course.js":
            return script[0]
        if name == "documentation_options.js":
            return f"\n<script>{options}</script>"
        if name not in (*unwanted, "fontawesome.js"):
            listed.append(script[1] + script[2])
        return ""

    light = SCRIPT.sub(placed, PRELOAD.sub("", page)).replace(THEME, ASKED)
    listed.sort(key=lambda source: "mathjax" in source)  # two megabytes
    told = f'<script type="application/json" id="peft-late">{json.dumps(listed)}</script>'
    return light.replace("</body>", f"{told}</body>", 1)


def offline_script(made: Path) -> str:
    """Return the service worker that keeps this site for reading offline: all but sources and reference.

    Whatever changes, also in what is kept only once it was visited, makes another version.
    """
    paths = [path for path in sorted(made.rglob("*")) if path.is_file() and path.name != "sw.js"]
    kept = [path for path in paths if _kept(path.relative_to(made))]
    version = hashlib.sha256(b"".join(path.read_bytes() for path in paths)).hexdigest()[:12]
    files = ["./", *(path.relative_to(made).as_posix() for path in kept)]
    script = (alive.PAGE / "offline.js").read_text(encoding="utf-8")
    return f"const VERSION = {json.dumps(version)}, FILES = {json.dumps(files)};\n{script}"


KEPT = (".html", ".js", ".css", ".json", ".svg", ".png", ".webp", ".woff2")


def _kept(path: Path) -> bool:
    """Whether a file is copied at the first visit: not the reference, nor the pages that train with their models."""
    training = tuple(page.name for page in build_playground.PAGES)
    elsewhere = path.parts[0] in ("_modules", "_sources", "api") or path.parts[0].startswith(training)
    return path.suffix in KEPT and not elsewhere


class Page(HTMLParser):
    """What a page links to, what it can be linked to by, and its pictures without a description."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.ids: set[str] = set()
        self.undescribed: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        given = dict(attributes)
        self.ids.update(value for key, value in attributes if key in ("id", "name") and value)
        self.links += [value for key in ("href", "src") if (value := given.get(key))]
        if tag == "img" and given.get("alt") is None:
            self.undescribed.append((given.get("src") or "")[:80])


def problems(site: Path) -> list[str]:
    """Links inside the site that lead nowhere, whatever a page would load from elsewhere, pictures without words."""
    paths = (path for path in sorted(site.rglob("*.html")) if path.parts[len(site.parts)] != "_static")  # templates
    pages = {path: Page(path.read_text(encoding="utf-8")) for path in paths}
    found = []
    for path, page in pages.items():
        here = path.relative_to(site)
        found += [f"{here}: a picture has no alt text: {source}" for source in page.undescribed]
        for link in dict.fromkeys(page.links):
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            if not target.is_file():
                found.append(f"{here}: the link to {link} leads nowhere")
            elif parts.fragment and target in pages and unquote(parts.fragment) not in pages[target].ids:
                found.append(f"{here}: the link to {link} leads to no such place on its page")
    return found


def build(out: Path) -> list[str]:
    """Build the site into `out`, replacing what is there once all went well; returns what is wrong with it."""
    with tempfile.TemporaryDirectory(prefix="peft-lessons-site-") as place:
        source, made = Path(place) / "source", Path(place) / "site"
        source.mkdir()
        gather(source)
        status = sphinx_build(["-b", "html", "-W", "--keep-going", "-q", "-j", "2", str(source), str(made)])
        if status:
            return ["Sphinx warns: see above"]
        (made / ".buildinfo").unlink(missing_ok=True)
        shutil.rmtree(made / ".doctrees", ignore_errors=True)
        build_playground.build(made)
        finish(made)
        if found := problems(made):
            return found
        out.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(out, ignore_errors=True)
        shutil.copytree(made, out)
    return []


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--out", type=Path, default=ROOT / "build/site", help="folder of the site; build/site if not said"
    )
    out = parser.parse_args().out
    if not MATHJAX.exists():
        sys.exit(f"MathJax is not at {MATHJAX.relative_to(ROOT)}: run make site, which installs it with npm")
    started = time.monotonic()
    if found := build(out):
        print("\n".join(found), file=sys.stderr)
        return 1
    size = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
    print(f"{out / 'index.html'}: {size / 1e6:.1f} MB in {time.monotonic() - started:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
