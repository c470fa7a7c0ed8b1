"""Render the letters that the drawing model learns from, and those that it has never seen, from Debian's font packages.

    python -m tools.artifacts.make_letters | xargs apt-get download       in FOLDER
    python -m tools.artifacts.make_letters FOLDER

Without a folder the script names the packages. With one it reads the archives there, executes nothing from them, and
writes FOLDER/letters.safetensors, which tools/artifacts/train_letters.py trains on; which typefaces those are, with
their packages and licences, into peft_lessons/models/letters/typefaces.json; and the families that are held out,
letters included, into peft_lessons/data. A minute.

Only packages are read whose licence lets rendered letters, and a model made from them, be given to anybody on any
terms: `LICENCES` says by which sentence each is known, and a package whose copyright file lacks the sentence of its
licence is refused. The GNU licences are among them only with the exception for documents that use the font.
"""

import io
import json
import re
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from safetensors.torch import save_file

from peft_lessons.files import write_bytes
from peft_lessons.models.letters import FOLDER, LETTERS
from tools.artifacts.make_data import describe, read_deb, write

# What a copyright file says under each licence, in lower case and with single spaces.
LICENCES = {
    "OFL-1.1": "the requirement for fonts to remain under this license does not apply to any document created using",
    "OFL-1.0": "sil open font license, version 1.0",
    "GPL with font exception": "this font does not by itself cause the resulting document to be covered by the gnu",
    "Apache-2.0": "apache license, version 2.0",
    "MIT": "permission is hereby granted, free of charge, to any person obtaining a copy of this software and",
    "BSD": "redistribution and use in source and binary forms, with or without modification, are permitted",
    "GUST": "gust font license",
    "Bitstream Vera": "permission is hereby granted, free of charge, to any person obtaining a copy of the fonts "
    "accompanying this license",
    "CC0": "cc0",
    "Unlicense": "this is free and unencumbered software released into the public domain",
    "public domain": "public domain",
}

PACKAGES = {
    licence: [f"fonts-{name}" for name in names.split()]
    for licence, names in {
        "OFL-1.1": (
            "allerta anonymous-pro apropal arapey averia-gwf averia-sans-gwf averia-serif-gwf b612 babelstone-modern "
            "bajaderka bebas-neue blankenburg bwht cabin cabinsketch campania cantarell cardo cherrybomb cmu comfortaa "
            "comic-neue compagnon courier-prime croscore crosextra-caladea crosextra-carlito dancingscript "
            "dkg-handwriting dosis dotgothic16 ebgaramond ebgaramond-extra ecolier-court elstob essays1743 eurofurence "
            "ferrite-core firacode gamaliel georgewilliams gfs-artemisia gfs-baskerville gfs-bodoni-classic gfs-didot "
            "gfs-neohellenic gnutypewriter gotico-antiqua havana hosny-amiri humor-sans joscelyn junction junicode "
            "jura karla karmilla kaushanscript klaudia-berenika kristi lato le-murmure league-mono league-spartan "
            "leckerli-one lemonada liberation2 lobster manrope millimetre monofur mononoki nanum nanum-extra "
            "national-park noto-core noto-mono okolaks opendin oxygen play quattrocento quicksand radisnoir rampart "
            "reggae rit-sundar rocknroll seto sil-abyssinica sil-andika sil-annapurna sil-charis sil-doulos sil-ezra "
            "sil-galatia sil-gentium sil-gentium-basic sil-gentiumplus sil-harmattan sil-lateef sil-mondulkiri "
            "sil-mondulkiri-extra sil-padauk sil-scheherazade sixtyfour smiley-sans solide-mirage sora stick stix "
            "tomsontalks triod-postnaja ubuntu-title uniol vollkorn yanone-kaffeesatz yrsa-rasa yusei-magic"
        ),
        "OFL-1.0": "breip century-catalogue inconsolata levien-museum levien-typoscript oldstandard",
        "GPL with font exception": (
            "adf-accanthis adf-baskervald adf-berenis adf-gillius adf-ikarius adf-irianis adf-libris adf-mekanus "
            "adf-oldania adf-romande adf-solothurn adf-switzera adf-tribun adf-universalis adf-verana freefont-otf "
            "linuxlibertine osifont rufscript sjfonts tlwg-garuda-otf tlwg-kinnari-otf tlwg-laksaman-otf tlwg-loma-otf "
            "tlwg-norasi-otf unikurdweb"
        ),
        "Apache-2.0": "clear-sans inter jetbrains-mono open-sans roboto-slab",
        "MIT": "agave fantasque-sans fanwood lindenhill monoid roadgeek routed-gothic",
        "BSD": "dclfonts go spleen",
        "GUST": "lmodern texgyre",
        "Bitstream Vera": "arkpandora dejavu-core dejavu-extra",
        "CC0": "fantasma",
        "Unlicense": "glasstty",
        "public domain": "goudybookletter ocr-a ocr-b prociono tuffy",
    }.items()
}

SIZE = 32  # pixels
GREYS = 15  # ink; paper is 0
FINER = 4  # what is drawn first, along each side
BASELINE = 23  # row of pixels whose upper border letters stand on, higher where long descenders need the room
ABOVE, BELOW, WIDE = 22, 8, 30  # pixels above and below it and along it: what letters are scaled to
ODD = 2  # the largest letter in each direction but one counts; the ends of that one may be cut off
MEASURED_AT = 256  # pixels to the em
ALIKE = 0.004  # mean squared difference of two typefaces, ink being 1, below which they are one
SMALLEST = 6  # pixels: the height of a lower-case x
LEGIBLE = 0.45  # how like the average letter of all typefaces a typeface's letters are, on average


@dataclass(frozen=True)
class HeldOut:
    """A family that is kept from the base: no file of its package is trained on. `files` are those that are shipped."""

    family: str
    kind: str
    package: str
    files: Mapping[str, str]  # a name, by how a file's name ends


HELD_OUT = [
    HeldOut("dkg", "handwriting", "fonts-dkg-handwriting", {"dkg": "dkg.ttf"}),
    HeldOut("Breip", "handwriting", "fonts-breip", {"Breip": "Breip.ttf"}),
    HeldOut("Rufscript", "handwriting", "fonts-rufscript", {"Rufscript": "Rufscript010.ttf"}),
    HeldOut("Humor Sans", "comic", "fonts-humor-sans", {"Humor Sans": "Humor-Sans.ttf"}),
    HeldOut(
        "Dancing Script",
        "script",
        "fonts-dancingscript",
        {"Dancing Script": "DancingScript-Regular.otf", "Dancing Script Bold": "DancingScript-Bold.otf"},
    ),
    HeldOut("Lobster", "script", "fonts-lobster", {"Lobster": "lobster.otf"}),
    HeldOut("Kristi", "script", "fonts-kristi", {"Kristi": "Kristi.ttf"}),
    HeldOut(
        "Courier Prime",
        "typewriter",
        "fonts-courier-prime",
        {"Courier Prime": "/Courier Prime.otf", "Courier Prime Bold Italic": "/Courier Prime Bold Italic.otf"},
    ),
]


@dataclass
class Typeface:
    """The letters of one font file, (52, SIZE, SIZE) from 0 to GREYS."""

    name: str
    package: str
    file: str
    letters: np.ndarray


def main(arguments: Sequence[str]) -> int:
    if len(arguments) > 1:
        print(__doc__, file=sys.stderr)
        return 2
    packages = {package: licence for licence, names in PACKAGES.items() for package in names}
    if not arguments:
        print("\n".join(sorted(packages)))
        return 0
    folder = Path(arguments[0])
    versions: dict[str, str] = {}
    seen: list[Typeface] = []
    held_out: dict[str, Typeface] = {}
    kept_away = {one.package: one for one in HELD_OUT}
    for package in sorted(packages):
        (archive,) = folder.glob(f"{package}_*.deb")
        versions[package] = archive.name.split("_")[1].replace("%3a", ":")
        content = read_deb(archive)
        check_licence(
            package, packages[package], content[f"usr/share/doc/{package}/copyright"].decode(errors="replace")
        )
        typefaces = list(in_package(package, content))
        if package in kept_away:
            for name, ending in kept_away[package].files.items():
                (held_out[name],) = [one for one in typefaces if one.file.endswith(ending)]
        else:
            seen += typefaces
        print(f"{package}: {len(typefaces)} typefaces", flush=True)
    kept = different(legible(seen), list(held_out.values()))
    letters = torch.from_numpy(np.stack([one.letters for one in kept]))
    save_file({"letters": letters}, folder / "letters.safetensors")
    trained_on = {
        package: {
            "version": versions[package],
            "licence": packages[package],
            "typefaces": [one.name for one in kept if one.package == package],
        }
        for package in dict.fromkeys(one.package for one in kept)
    }
    text = json.dumps(trained_on, indent=1, ensure_ascii=False) + "\n"
    write_bytes(FOLDER / "typefaces.json", text.encode())
    print(f"{len(kept)} of {len(seen)} typefaces to learn from, of {len(trained_on)} packages")
    describe([write_held_out(held_out, versions, packages)])
    return 0


def check_licence(package: str, licence: str, copyright_file: str) -> None:
    """Raise ValueError unless the file says that the package is under this licence."""
    plain = " ".join(re.sub(r"^\s*\.\s*$", "", copyright_file, flags=re.MULTILINE).lower().split())
    if LICENCES[licence] not in plain:
        raise ValueError(f"the copyright file of {package} does not say what {licence} does: its letters are not used")


def in_package(package: str, content: Mapping[str, bytes]) -> Iterator[Typeface]:
    """Render each font file of a package that has all letters and is not too small."""
    for file in sorted(content):
        if not file.lower().endswith((".ttf", ".otf")):
            continue
        try:
            letters = rendered(content[file])
        except OSError as error:  # FreeType cannot read it
            print(f"{file}: {error}")
            continue
        if letters is not None:
            family, style = ImageFont.truetype(io.BytesIO(content[file]), 12).getname()
            name = f"{family} {style}".removesuffix(" Regular")
            yield Typeface(name, package, file, letters)


def rendered(font_file: bytes) -> np.ndarray | None:
    """The letters at one scale on one baseline, each in the middle of its picture; None where one is missing."""

    def font(size: float) -> ImageFont.FreeTypeFont:
        return ImageFont.truetype(io.BytesIO(font_file), size, layout_engine=ImageFont.Layout.BASIC)

    large = font(MEASURED_AT)
    boxes = {letter: large.getbbox(letter, anchor="ls") for letter in LETTERS}
    if any(right <= left or bottom <= top for left, top, right, bottom in boxes.values()):
        return None
    above = sorted(-top for _, top, _, _ in boxes.values())[-ODD]
    below = sorted(bottom for _, _, _, bottom in boxes.values())[-ODD]
    wide = sorted(right - left for left, _, right, _ in boxes.values())[-ODD]
    scale = min(ABOVE / max(above, 1), (ABOVE + BELOW) / max(above + below, 1), WIDE / wide)
    if -boxes["x"][1] * scale < SMALLEST:
        return None
    fine, baseline = font(MEASURED_AT * scale * FINER), min(BASELINE, BASELINE + BELOW - round(below * scale))
    pictures = np.stack([_drawn(fine, letter, baseline) for letter in LETTERS])
    shapes = Counter(picture.tobytes() for picture in pictures)
    return pictures if max(shapes.values()) <= 2 else None  # the box that stands for letters that are not there


def _drawn(font: ImageFont.FreeTypeFont, letter: str, baseline: int) -> np.ndarray:
    image = Image.new("L", (SIZE * FINER, SIZE * FINER))
    left, _, right, _ = font.getbbox(letter, anchor="ls")
    start = (SIZE * FINER - (right - left)) / 2 - left
    ImageDraw.Draw(image).text((round(start), baseline * FINER), letter, fill=255, font=font, anchor="ls")
    ink = np.asarray(image, dtype=np.float32).reshape(SIZE, FINER, SIZE, FINER).mean((1, 3))
    return np.rint(ink * GREYS / 255).astype(np.uint8)


def legible(typefaces: list[Typeface]) -> list[Typeface]:
    """Leave out drawings that are no letters: those unlike the average of each letter."""
    pictures = np.stack([one.letters for one in typefaces]).astype(np.float32)
    pictures -= pictures.mean((2, 3), keepdims=True)
    pictures /= np.linalg.norm(pictures, axis=(2, 3), keepdims=True)
    alike = np.einsum("flxy,lxy->fl", pictures, pictures.mean(0)) / np.linalg.norm(pictures.mean(0), axis=(1, 2))
    return [one for one, likeness in zip(typefaces, alike.mean(1), strict=True) if likeness >= LEGIBLE]


def different(typefaces: list[Typeface], held_out: list[Typeface]) -> list[Typeface]:
    """Leave out what is all but the same as one before it, or as one that is held out."""
    everything = [*held_out, *typefaces]
    flat = torch.from_numpy(np.stack([one.letters for one in everything])).flatten(1).float() / GREYS
    squares = flat.square().sum(1)
    distances = (squares[:, None] + squares - 2 * flat @ flat.T) / flat.shape[1]
    kept = list(range(len(held_out)))
    for i in range(len(held_out), len(everything)):
        if not kept or distances[i, kept].min() >= ALIKE:
            kept.append(i)
    return [everything[i] for i in kept[len(held_out) :]]


def write_held_out(
    typefaces: Mapping[str, Typeface], versions: Mapping[str, str], licences: Mapping[str, str]
) -> dict[str, object]:
    """Write the typefaces that are held out as a data set; returns its entry in the manifest."""
    rows = [
        {
            "name": name,
            "family": one.family,
            "kind": one.kind,
            "package": one.package,
            "licence": licences[one.package],
            "letters": dict(zip(LETTERS, map(hexadecimal, typefaces[name].letters), strict=True)),
        }
        for one in HELD_OUT
        for name in one.files
    ]
    archives = [f"{one.package} {versions[one.package]}" for one in HELD_OUT]
    return write(
        "typefaces",
        rows,
        title="The 52 letters of typefaces that the drawing model has not seen",
        source=f"Debian packages {', '.join(archives)}",
        licence="; ".join(f"{one.family}: {licences[one.package]}" for one in HELD_OUT),
        made=f"Drawn with {SIZE} × {SIZE} pixels in {GREYS + 1} greys by tools/artifacts/make_letters.py, at one scale "
        "a typeface, on one baseline. What the model has seen, with packages and licences: "
        "peft_lessons/models/letters/typefaces.json.",
    )


def hexadecimal(picture: np.ndarray) -> str:
    """A picture as a digit a pixel, row by row: 0 is paper, f is ink."""
    return "".join(f"{value:x}" for value in picture.flatten().tolist())


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
