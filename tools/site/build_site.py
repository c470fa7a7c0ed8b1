"""The course as a site to read: `make site`, or `python -m tools.site.build_site [--out FOLDER]`.

The lessons are the stored notebooks, run by nobody here. Pages, styles, MathJax and the search index come from this
computer: the build asks nothing of the network, and neither do the pages. A warning of Sphinx, a link inside the site
that leads nowhere, or a picture without a description fails the build.
"""

import argparse
import json
import re
import shutil
import sys
import tempfile
import time
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import nbformat
from sphinx.cmd.build import main as sphinx_build

from peft_lessons.lessons.glossary import as_data, glossary
from tools.lessons.notebooks import INSTALLS, sources
from tools.lessons.predictions import answers
from tools.site.reference import methods_page

ROOT = Path(__file__).resolve().parents[2]
SITE = ROOT / "docs/site"
TERMS = ROOT / "peft_lessons/jupyter/labextensions/peft-lessons-page/static/glossary.js"
MATHJAX = ROOT / "tests/js/node_modules/mathjax/es5/tex-svg.js"
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
document.addEventListener("DOMContentLoaded", () => {{
  if (!location.pathname.includes("/lessons/")) return;
  const used = new Set();
  for (const prose of document.querySelectorAll(".bd-article section > :is(p, ul, ol, table)"))
    mark(prose, terms, (term) => !used.has(term) && used.add(term));
  showMeanings();
}});
}})();
"""


def glossary_page() -> str:
    """Return the glossary as a page, the terms in the order of the alphabet."""
    rows = [f"**{term.name}**\n: {term.meaning}\n" for term in glossary()]
    return "\n".join(["# Glossary\n", *rows])


def gather(folder: Path) -> None:
    """Put the site's sources together in `folder`, which is empty."""
    shutil.copytree(SITE, folder, dirs_exist_ok=True)
    shutil.copy(MATHJAX, folder / "_static/mathjax.js")
    (folder / "_static/terms.js").write_text(terms_script(), encoding="utf-8")
    (folder / "lessons").mkdir()
    for text in sources():
        notebook = nbformat.read(text.with_suffix(".ipynb"), as_version=4)
        notebook.cells = [
            cell for cell in notebook.cells if INSTALLS not in cell.metadata.get("tags", [])
        ]  # runs nothing
        for cell in notebook.cells:
            if cell.metadata.get("jupyter", {}).get("source_hidden"):
                cell.metadata["tags"] = [*cell.metadata.get("tags", []), "hide-input"]
        for cell in answers(notebook.cells):
            cell.metadata["tags"] = [*cell.metadata.get("tags", []), "hide-output"]
            cell.metadata["mystnb"] = {"code_prompt_show": "Show the {type}", "code_prompt_hide": "Hide the {type}"}
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
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    (table,) = re.findall(r"^## Lessons\n\n(.*?)^## ", readme, re.MULTILINE | re.DOTALL)
    index = folder / "index.md"
    page = index.read_text(encoding="utf-8").replace("LESSONS", table.replace("(notebooks/", "(lessons/"))
    index.write_text(page, encoding="utf-8")


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
        (made / ".nojekyll").touch()  # else GitHub's pages leave out folders that begin with an underscore
        shutil.rmtree(made / ".doctrees", ignore_errors=True)
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
