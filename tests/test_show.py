"""show() leaves the whole source, highlighted, and says clearly what it cannot show."""

import html
import inspect
import re

import pytest
from IPython.core.interactiveshell import InteractiveShell
from IPython.utils.capture import capture_output

from peft_lessons.classroom.output import claims
from peft_lessons.classroom.output.cards import Card, inline_html
from peft_lessons.classroom.output.show import Source, show, source_of


def text_of(page: str) -> str:
    """What a reader sees in the code block."""
    return html.unescape(re.sub(r"<[^>]+>", "", re.search(r"<pre[^>]*>(.*)</pre>", page, re.DOTALL)[1]))


def test_every_object_is_one_output():
    InteractiveShell.instance()
    try:
        with capture_output() as captured:
            assert show(inline_html, Card) is None
    finally:
        InteractiveShell.clear_instance()
    first, second = captured.outputs
    lines = len(inspect.getsource(inline_html).splitlines())
    assert first.data["text/plain"] == f"inline_html, from peft_lessons.classroom.output.cards: {lines} lines of Python"
    assert second.data["text/plain"].startswith("Card, from peft_lessons.classroom.output.cards")
    assert set(first.data) == {"text/plain", "text/html"}


@pytest.mark.parametrize("obj", [inline_html, Card, Source._repr_html_, claims])
def test_the_source_is_complete(obj):
    shown = text_of(source_of(obj)._repr_html_())
    assert inspect.cleandoc(shown) == inspect.cleandoc(inspect.getsource(obj))


def test_a_method_loses_its_indentation():
    assert source_of(Source.__init__).code.startswith("def __init__")
    assert source_of(Source.__init__).title == "Source.__init__, from peft_lessons.classroom.output.show"


def test_a_module_is_titled_by_its_name():
    assert source_of(claims).title == "peft_lessons.classroom.output.claims"


@pytest.mark.parametrize(
    ("obj", "message"),
    [
        (len, "len, which has none"),
        (int, "int, which has none"),
        (Source("t", "c"), "an instance of Source"),
        (3, "an instance of int"),
    ],
)
def test_what_has_no_source_is_refused(obj, message):
    with pytest.raises(TypeError, match=message):
        show(obj)


def test_nothing_is_refused_and_shows_nothing_of_a_bad_list(capsys):
    with pytest.raises(TypeError, match="at least one"):
        show()
    with pytest.raises(TypeError, match="an instance of int"):
        show(Card, 3)
    assert capsys.readouterr().out == ""


def test_markup_is_escaped():
    page = Source("<script>t</script>", 'x = "<script>alert(1)</script>"  # <img src=x>')._repr_html_()
    assert "<script" not in page and "<img" not in page
    assert text_of(page).strip() == 'x = "<script>alert(1)</script>"  # <img src=x>'


def test_every_coloured_kind_of_token_has_a_rule():
    page = Source(
        "t", 'class A(int):\n    @property\n    def f(self):  # c\n        return "s" + 1 and len(x)\n'
    )._repr_html_()
    style = re.search(r"<style>(.*)</style>", page, re.DOTALL)[1]
    for kind in ("k", "nc", "nd", "nf", "c1", "s2", "mi", "ow", "nb"):
        assert f'class="py-{kind}"' in page
        assert f".py-{kind}" in style or f'[class^="py-{kind[0]}"]' in style, kind


def test_the_forms_hold_no_address_and_no_path():
    source = source_of(Card)
    for form in (repr(source), source._repr_html_()):
        assert "0x" not in form and inspect.getfile(Card) not in form
