"""Style sheets without what no page uses: text waits for the theme's, which has 380 KB for sites of every kind."""

import re
from collections.abc import Iterator
from pathlib import Path

NAMES = re.compile(r"[.#](-?[A-Za-z_][\w-]*)")
ANYTHING = re.compile(r"\[[^\]]*\]|:(?:not|is|where|has)\((?:[^()]|\([^()]*\))*\)")  # names what need not be there
COMMA = re.compile(r",(?![^(\[]*[)\]])")


def prune(site: Path) -> None:
    """Take out of the style sheets of `site`, in place, the rules for classes and ids that no page or script names."""
    used: set[str] = set()
    for path in site.rglob("*"):
        if path.suffix in (".html", ".js"):
            used.update(re.findall(r"[\w-]+", path.read_text(encoding="utf-8")))
    for path in site.glob("_static/**/*.css"):
        path.write_text(pruned(path.read_text(encoding="utf-8"), used), encoding="utf-8")


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
