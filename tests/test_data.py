"""The shipped texts: whole, documented, as their descriptions say; and the readers that made them."""

import gzip
import hashlib
import importlib.util
import json
import re
import struct
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from peft_lessons import DoRAConfig, IA3Config, LoRAConfig, VeRAConfig, data
from peft_lessons.accounting import FullFineTuning, model_shape, trained_parameters

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "peft_lessons" / "data"
ROWS = {
    "austen": data.austen,
    "jargon": data.jargon,
    "devils_dictionary": data.devils_dictionary,
    "countries": data.countries,
    "speeches": data.speeches,
    "definitions": data.definitions,
    "typefaces": data.typefaces,
}


@pytest.fixture(scope="module")
def make_data() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_data", ROOT / "tools/artifacts/make_data.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def fresh() -> Iterator[None]:
    data._text.cache_clear()
    yield
    data._text.cache_clear()


def test_the_manifest_describes_every_file_and_nothing_else() -> None:
    entries = {entry["name"]: entry for entry in data.manifest()}
    assert entries.keys() == ROWS.keys() == {path.name.split(".")[0] for path in FOLDER.glob("*.gz")}
    for name, entry in entries.items():
        content = gzip.decompress((FOLDER / f"{name}.jsonl.gz").read_bytes())
        assert hashlib.sha256(content).hexdigest() == entry["sha256"]
        assert len(ROWS[name]()) == entry["rows"] == content.count(b"\n")
        assert all(entry[field] for field in ("title", "source", "licence", "made"))


def test_the_files_are_small_and_carry_no_date() -> None:
    files = list(FOLDER.glob("*.gz"))
    assert sum(file.stat().st_size for file in files) < 3_000_000
    for file in files:
        assert struct.unpack("<I", file.read_bytes()[4:8]) == (0,)


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: content[:-500],
        lambda content: b"not gzip",
        lambda content: content[:2000] + b"\xff\xff\xff\xff" + content[2004:],
        lambda content: gzip.compress(gzip.decompress(content).replace(b"YEAR", b"FEAR")),
    ],
)
def test_a_damaged_file_is_an_error_that_says_what_mends_it(
    damage, fresh: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "manifest.json").write_bytes((FOLDER / "manifest.json").read_bytes())
    content = (FOLDER / "devils_dictionary.jsonl.gz").read_bytes()
    monkeypatch.setattr(data, "files", lambda package: tmp_path)
    (tmp_path / "devils_dictionary.jsonl.gz").write_bytes(content)
    assert data.devils_dictionary()
    data._text.cache_clear()
    (tmp_path / "devils_dictionary.jsonl.gz").write_bytes(damage(content))
    with pytest.raises(ValueError, match=r"damaged.*git checkout"):
        data.devils_dictionary()


def test_each_call_returns_rows_of_its_own() -> None:
    data.countries()[0]["capital"] = "Nowhere"
    assert data.countries()[0]["capital"] == "Kabul"


def test_austen() -> None:
    novels = data.austen()
    assert sorted(novels) == [
        "Emma",
        "Mansfield Park",
        "Northanger Abbey",
        "Persuasion",
        "Pride and Prejudice",
        "Sense and Sensibility",
    ]
    assert data.AUSTEN_HELD_OUT in novels
    assert "It is a truth universally acknowledged, that a single man in possession" in novels["Pride and Prejudice"]
    assert all(400_000 < len(text) < 900_000 for text in novels.values())
    assert not any("gutenberg" in text.lower() or "\n\n" in text or "  " in text for text in novels.values())


def test_jargon() -> None:
    entries = {entry["term"]: entry["text"] for entry in data.jargon()}
    assert len(entries) == len(data.jargon())
    assert entries["1TBS"] == "1TBS //, n.\nThe “One True Brace Style”; see {indent style}."
    assert all(text.startswith(term) for term, text in entries.items())


def test_devils_dictionary() -> None:
    entries = {entry["word"]: entry["text"] for entry in data.devils_dictionary()}
    assert entries["YEAR"] == "YEAR, n. A period of three hundred and sixty-five disappointments."
    for word, text in entries.items():
        assert re.match(rf"{re.escape(word)}, [a-z.]+ \S", text)
        assert len(text) <= 600 and "\n" not in text and "  " not in text and not text.endswith((":", "--"))


def test_left_out_words_are_out(make_data: ModuleType) -> None:
    slurs = make_data.words(make_data.SLURS_AND_OBSCENITY)
    unwanted = make_data.words(
        make_data.SLURS_AND_OBSCENITY, make_data.RACE_AND_NATIONS, make_data.RELIGION, make_data.WOMEN
    )
    assert not any(slurs.search(entry["text"]) for entry in data.jargon())
    assert not any(unwanted.search(entry["text"]) for entry in data.devils_dictionary())
    assert not any(slurs.search(answer) for row in data.definitions() for answer in row["answers"])
    assert slurs.search("a Negro") and unwanted.search("the White race") and unwanted.search("Her wit")
    assert not unwanted.search("an inherent trace of blame")


def test_countries() -> None:
    rows = data.countries()
    names = [row["country"] for row in rows]
    assert len(set(names)) == len(names) and names == sorted(names)
    assert {"country": "Greece", "capital": "Athens", "region": "Europe", "area_km2": 131957} in rows
    for row in rows:
        assert row.keys() == {"country", "capital", "region", "area_km2"}
        assert type(row["area_km2"]) is int and row["area_km2"] > 0


def test_a_country_sentence_says_everything_once_and_each_sentence_is_another() -> None:
    assert len(data.COUNTRY_TEMPLATES) == len(set(data.COUNTRY_TEMPLATES)) == 12
    for template in data.COUNTRY_TEMPLATES:
        assert sorted(re.findall(r"{(\w+)}", template)) in (
            ["area", "capital", "country", "region"],
            ["area", "capital", "country", "country", "region"],
        )
    greece = next(row for row in data.countries() if row["country"] == "Greece")
    assert data.country_sentence(greece, data.COUNTRY_TEMPLATES[-1]) == (
        "Travelling to Athens? It is the capital of Greece, 131,957 square kilometres of Europe."
    )


def test_speeches() -> None:
    rows = data.speeches()
    assert [row["year"] for row in rows] == list(range(1950, 2001, 5))
    assert all(len(row["text"]) > 15_000 and "\n" not in row["text"] for row in rows)


def test_definitions() -> None:
    rows = data.definitions()
    words = [row["word"] for row in rows]
    assert len(rows) == len(set(words)) == 138
    assert set(words) <= {entry["word"].lower() for entry in data.devils_dictionary()}
    for row in rows:
        first, second = row["answers"]
        assert row.keys() == {"word", "answers"} and first != second and "<|" not in first + second


def test_describing_a_set_leaves_the_others(
    make_data: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "manifest.json").write_text(json.dumps([{"name": "a", "rows": 1}, {"name": "b", "rows": 2}]))
    monkeypatch.setattr(make_data, "DATA", tmp_path)
    make_data.describe([{"name": "a", "rows": 3}])
    found = json.loads((tmp_path / "manifest.json").read_text(encoding="utf-8"))
    assert found == [{"name": "b", "rows": 2}, {"name": "a", "rows": 3}]


def test_reading_r_and_dictd(make_data: ModuleType) -> None:
    """R's `saveRDS(c("a", "", "ü"), ascii = FALSE)` and numbers of dictd's index, written by hand."""
    strings = b"".join(struct.pack(">Ii", 0x00040009, len(s.encode())) + s.encode() for s in ("a", "", "ü"))
    serialized = (
        b"X\n" + struct.pack(">iiii", 3, 0x040201, 0x030500, 5) + b"UTF-8" + struct.pack(">Ii", 16, 3) + strings
    )
    assert make_data.r_strings(serialized) == ["a", "", "ü"]
    with pytest.raises(ValueError, match="XDR"):
        make_data.r_strings(b"A\n")
    assert [make_data.base64_number(digits) for digits in ("A", "B", "/", "BA", "Ph")] == [0, 1, 63, 64, 993]


def test_rows_survive_unusual_line_breaks(fresh: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    content = (json.dumps({"year": 1, "text": "a\u2028b\u0085c\x1cd"}, ensure_ascii=False) + "\n").encode()
    (tmp_path / "speeches.jsonl.gz").write_bytes(gzip.compress(content))
    entry = {"name": "speeches", "sha256": hashlib.sha256(content).hexdigest()}
    (tmp_path / "manifest.json").write_text(json.dumps([entry]))
    monkeypatch.setattr(data, "files", lambda package: tmp_path)
    assert data.speeches() == json.loads(f"[{content.decode()}]")


def test_the_benchmark_s_rows_are_whole_and_agree_with_the_formulas() -> None:
    """Trained numbers as counted from the model's shape, where the course has the method."""
    rows = {(row["experiment"], row["learning_rate"]): row for row in data.peft_benchmark()}
    assert len(rows) == len(data.peft_benchmark()) == 63
    assert len({tuple(row) for row in rows.values()}) == 1, "one set of fields"
    assert all(0 <= row["accuracy"] <= 100 and row["memory_gb"] > 20 and row["result"] for row in rows.values())
    shape, query_value = model_shape("Llama-3.2-3B"), ("q_proj", "v_proj")
    for name, method in {
        "full fine-tuning": FullFineTuning(),
        "LoRA, rank 32, q and v": LoRAConfig(rank=32, targets=query_value),
        "DoRA, rank 32": DoRAConfig(rank=32, targets=query_value),
        "VeRA, rank 256": VeRAConfig(rank=256, targets=query_value),
        "IA³": IA3Config(),
    }.items():
        assert trained_parameters(shape, method) in {
            row["trained"] for (other, _), row in rows.items() if other == name
        }
