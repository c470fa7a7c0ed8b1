"""The site as a reader meets it: built from this checkout, served from a folder, seen in a browser."""

import functools
import http.server
import json
import threading
from pathlib import Path

import contrast
import nbformat
import pytest

from peft_lessons.lessons.catalogue import lessons
from peft_lessons.lessons.questions import load_question, question_ids
from tools.browser import lab
from tools.site import build_site

pytestmark = pytest.mark.browser
NODE_MODULES = Path(__file__).resolve().parents[1] / "js/node_modules"
AXE = NODE_MODULES / "axe-core/axe.min.js"
# One page of each kind; every page is opened, these are looked at closely.
KINDS = ["index.html", "lessons/00_start_here.html", "lessons/08_fine_tune_a_real_llm.html", "docs/methods.html"]
KINDS += ["docs/class.html", "api/adapters.html", "search.html"]


class Silent(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The folder of the site, built anew."""
    out = tmp_path_factory.mktemp("built") / "site"
    assert build_site.build(out) == []
    return out


@pytest.fixture(scope="module")
def address(site):
    handler = functools.partial(Silent, directory=site)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


class Reader:
    """A page that notes whatever goes wrong on it, and every request that leaves the site."""

    def __init__(self, browser, address):
        self.context, self.address, self.wrong = lab.new_context(browser), address, []
        self.page = self.context.new_page()
        self.page.route("**/*", self._stay_here)
        self.page.on("pageerror", lambda error: self.wrong.append(f"error: {error}"))
        self.page.on("console", lambda message: message.type == "error" and self.wrong.append(message.text))
        self.page.on("response", lambda answer: answer.status >= 400 and self.wrong.append(f"missing: {answer.url}"))

    def _stay_here(self, route):
        if route.request.url.startswith((f"{self.address}/", "data:", "blob:")):
            route.continue_()
        else:
            self.wrong.append(f"leaves the site: {route.request.url}")
            route.abort()

    def open(self, path, theme="light"):
        self.page.add_init_script(f"localStorage.setItem('mode', '{theme}'); localStorage.setItem('theme', '{theme}');")
        self.page.goto(f"{self.address}/{path}", wait_until="load")
        self.page.wait_for_selector(f'html[data-theme="{theme}"]')
        return self.page


@pytest.fixture
def reader(browser, address):
    reader = Reader(browser, address)
    yield reader
    reader.context.close()


def test_every_page_is_whole_and_asks_no_other_host(site, reader):
    """Lessons have no cell that installs, every quiz, folded, and every widget and figure as a picture with words."""
    pages = [path.relative_to(site) for path in sorted(site.rglob("*.html"))]
    pages = [path for path in pages if path.parts[0] not in ("_static", "_modules")]
    assert len([path for path in pages if path.parts[0] == "lessons"]) == len(lessons())
    for path in pages:
        page = reader.open(path.as_posix())
        assert any(page.locator("main h1, article h1").all_inner_texts()), path
        if path.parts[0] == "lessons":
            assert page.get_by_text("Install the course (Colab").count() == 0, "a page installs nothing"
            quizzes = page.locator(".cell_output", has=page.get_by_text("Quiz.", exact=True))
            assert quizzes.count() == len(question_ids(path.stem[:2])), path
            assert page.locator(".cell_output details[open]").count() == 0, path
            folded = page.locator("details.hide.below-input")
            assert folded.count() == len(folded_answers(path.stem)), path
            assert not any(folded.evaluate_all("parts => parts.map(part => part.open)")), path
            folded.evaluate_all("parts => parts.forEach(part => { part.open = true; })")
            pictures = page.locator(".cell_output figure img")
            assert pictures.count() == stored_pictures(path.stem), path
            assert all(pictures.evaluate_all("images => images.map(i => i.alt.length > 20 && i.naturalWidth > 100)"))
    assert reader.wrong == []


def folded_answers(lesson):
    """The cells of a notebook whose stored outputs wait for a reader's guess."""
    stored = nbformat.read(Path(lab.NOTEBOOKS) / f"{lesson}.ipynb", as_version=4)
    hidden = [cell for cell in stored.cells if cell.metadata.get("jupyter", {}).get("outputs_hidden")]
    return [cell for cell in hidden if cell.outputs]


def stored_pictures(lesson):
    """How many sliders and figures a notebook has shown."""
    stored = nbformat.read(Path(lab.NOTEBOOKS) / f"{lesson}.ipynb", as_version=4)
    outputs = [output for cell in stored.cells for output in cell.get("outputs", [])]
    texts = ["".join(output.get("data", {}).get("text/plain", "")) for output in outputs]
    return sum(text.startswith(("[Sweep]", "[LiveFigure]", "[Figure]")) for text in texts)


@pytest.mark.skipif(not AXE.exists(), reason="axe-core is missing; to run it: make setup-test")
@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("path", KINDS)
def test_pages_are_accessible_and_legible(reader, pictures, path, theme):
    page = reader.open(path, theme)
    page.evaluate(AXE.read_text(encoding="utf-8"))
    found = page.evaluate(
        """async () => (await axe.run({ preload: false })).violations.map(
            ({ id, help, nodes }) => ({ id, help, html: nodes.map(node => node.html) }))"""
    )
    page.screenshot(path=pictures / f"site-{path.replace('/', '-')}-{theme}.png")
    assert found == [], json.dumps(found, indent=2)
    assert contrast.faint_texts(page, "main") == []
    assert reader.wrong == []


def test_a_quiz_opens_its_answers(reader):
    page = reader.open("lessons/00_start_here.html")
    quiz = page.locator(".cell_output", has=page.get_by_text("Quiz.", exact=True)).first
    assert quiz.locator("details").count() == len(load_question("00-claim").options)
    feedback = quiz.locator("details p").first
    assert not feedback.is_visible()
    quiz.locator("summary").first.click()
    assert feedback.is_visible() and feedback.inner_text()[0] in "✔✘"


def test_formulas_are_drawn(reader):
    page = reader.open("lessons/03_lora_from_scratch.html")
    page.wait_for_selector("main mjx-container svg")
    assert page.locator("main .math:not(:has(mjx-container))").count() == 0


def test_search_finds_a_lesson(reader):
    page = reader.open("search.html?q=intruder")
    page.wait_for_selector("#search-results li")
    assert page.locator("#search-results li", has_text="Forgetting, honestly").count()
    assert reader.wrong == []


def test_the_theme_can_be_switched_and_is_kept(reader):
    page = reader.open("index.html")
    page.evaluate("localStorage.clear()")
    reader.page.locator("button.theme-switch-button:visible").first.click()
    chosen = page.evaluate("document.documentElement.dataset.mode")
    assert chosen in ("light", "dark", "auto")


@pytest.mark.parametrize(
    ("broken", "words"),
    [
        ('<a href="gone.html">', "leads nowhere"),
        ('<a href="#gone">', "no such place"),
        ('<img src="favicon.svg">', "no alt text"),
    ],
)
def test_what_is_wrong_with_a_site_is_named(tmp_path, broken, words):
    (tmp_path / "favicon.svg").touch()
    (tmp_path / "index.html").write_text(f'<a href="#here" id="here"><a href="https://example.org/">{broken}')
    (problem,) = build_site.problems(tmp_path)
    assert words in problem
