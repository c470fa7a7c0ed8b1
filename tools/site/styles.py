"""Style sheets and icons without what no page uses: the theme's have 600 KB for sites of every kind.

All sheets become one, for whose answer text waits; of the theme's fonts of icons those stay that it names.
"""

import hashlib
import logging
import re
from collections.abc import Iterator
from pathlib import Path

from fontTools import subset

NAMES = re.compile(r"[.#](-?[A-Za-z_][\w-]*)")
ANYTHING = re.compile(r"\[[^\]]*\]|:(?:not|is|where|has)\((?:[^()]|\([^()]*\))*\)")  # names what need not be there
COMMA = re.compile(r",(?![^(\[]*[)\]])")


def shrink(site: Path) -> None:
    """Give all pages of `site` one style sheet, without rules for classes and ids that no page or script names."""
    static, used = site / "_static", set[str]()
    pages = {}
    for path in sorted(site.rglob("*")):
        if path.suffix in (".html", ".js"):
            text = path.read_text(encoding="utf-8")
            used.update(re.findall(r"[\w-]+", text))
            if SHEET.search(text):
                pages[path] = text
    names = dict.fromkeys(name for text in pages.values() for _, name in SHEET.findall(text))
    css = '@charset "utf-8";' + pruned("".join(_imported(static / name) for name in names), used)
    for path in static.glob("**/*.css"):
        path.unlink()
    (static / ONE).write_text(css, encoding="utf-8")
    version = hashlib.sha256(css.encode()).hexdigest()[:8]
    for path, text in pages.items():
        before, rest = text[: (place := SHEET.search(text).start())], text[place:]  # type: ignore[union-attr]
        link = f'\n<link rel="stylesheet" href="{SHEET.findall(rest)[0][0]}{ONE}?v={version}">'
        path.write_text(before + link + SHEET.sub("", rest), encoding="utf-8")
    for font in static.glob("vendor/fontawesome/webfonts/*.woff2"):
        _keep(font, icons(css))


ONE = "styles/all.css"  # where the theme's own lies, since that names fonts from there
SHEET = re.compile(r'\s*<link\b[^>]*href="([^"]*?_static/)([^"?]*\.css)[^"]*"[^>]*>')


def _imported(path: Path) -> str:
    """Return a style sheet with those that it imports in their places: the browser would ask for them later."""
    css = re.sub(r"@charset [^;]*;", "", path.read_text(encoding="utf-8"))
    return re.sub(r'@import "([^"]+)";', lambda match: _imported(path.parent / match[1]), css)


def icons(css: str) -> set[int]:
    """Return the characters of a style sheet that only a font of icons has, written as they are or as an escape."""
    return {ord(sign) for sign in re.findall("[\ue000-\uf8ff]", css)} | {
        int(code, 16) for code in re.findall(r'"\\([ef][0-9a-f]{3})"', css)
    }


def _keep(font: Path, characters: set[int]) -> None:
    logging.getLogger("fontTools").setLevel(logging.WARNING)  # Sphinx makes every logger talk
    options = subset.Options(flavor="woff2", layout_features=[], name_IDs=["*"])  # names hold the licence
    loaded = subset.load_font(font, options)
    subsetter = subset.Subsetter(options)
    subsetter.populate(unicodes=characters)
    subsetter.subset(loaded)
    subset.save_font(loaded, font, options)


def pruned(css: str, used: set[str]) -> str:
    """Return a style sheet whose selectors name only what is `used`; a rule that loses all of its selectors goes."""
    kept = []
    for prelude, body in rules(re.sub(r"/\*.*?\*/", "", css, flags=re.DOTALL)):
        if prelude.startswith(("@media", "@supports", "@layer", "@container")) and body is not None:
            if inner := pruned(body, used):
                kept.append(f"{prelude}{{{inner}}}")
        elif prelude.startswith("@"):
            kept.append(f"{prelude};" if body is None else f"{prelude}{{{body}}}")
        elif selectors := [selector for selector in COMMA.split(prelude) if _applies(selector, used)]:
            kept.append(f"{','.join(selectors)}{{{body}}}")
    return "".join(kept)


def rules(css: str) -> Iterator[tuple[str, str | None]]:
    """Yield what stands before and in the outermost braces of a style sheet; None for a statement without any."""
    start = depth = opened = 0
    quote = ""
    for place, sign in enumerate(css):
        if quote:
            quote = "" if sign == quote and css[place - 1] != "\\" else quote
        elif sign in "\"'":
            quote = sign
        elif sign == "{":
            depth += 1
            opened = place if depth == 1 else opened
        elif sign == "}":
            depth -= 1
            if depth == 0:
                yield css[start:opened].strip(), css[opened + 1 : place]
                start = place + 1
        elif sign == ";" and depth == 0:
            yield css[start:place].strip(), None
            start = place + 1


def _applies(selector: str, used: set[str]) -> bool:
    return "\\" in selector or used.issuperset(NAMES.findall(ANYTHING.sub("", selector)))
