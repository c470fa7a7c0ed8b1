"""How many numbers does each method train?

Write `trained_numbers(method, d_in, d_out, r)` for one linear layer that maps `d_in` inputs to `d_out` outputs, where
`method` is "LoRA", "LoRA-FA", "DoRA", "VeRA" or "LoHa", and `r` is the rank. *The map*, at the top of the lesson,
says what each method trains.
"""

from collections.abc import Callable
from typing import Any

from peft_lessons.classroom.exercises.cases import Case, compare

TITLE = "Trained numbers, method by method"
MINUTES = 8

STARTER = '''\
def trained_numbers(method, d_in, d_out, r):
    """Trained numbers of "LoRA", "LoRA-FA", "DoRA", "VeRA" or "LoHa" on one layer"""
    return ...
'''

HINTS = [
    "Write the shape of every trained tensor: A is (r, d_in), B is (d_out, r), DoRA's m is (d_out,), and so on.",
    "LoRA-FA trains B alone. VeRA trains b (d_out,) and d (r,); its A and B are frozen. LoHa has two pairs.",
    "LoRA has `r * (d_in + d_out)`, and LoRA-FA its second part. DoRA adds a number for each output. VeRA and LoHa are "
    "yours.",
]

SOLUTION = '''\
def trained_numbers(method, d_in, d_out, r):
    """Trained numbers of "LoRA", "LoRA-FA", "DoRA", "VeRA" or "LoHa" on one layer"""
    lora = r * d_in + d_out * r  # A and B
    return {
        "LoRA": lora,
        "LoRA-FA": d_out * r,  # B alone
        "DoRA": lora + d_out,  # and a magnitude for each row of W
        "VeRA": d_out + r,  # two vectors; A and B are frozen and shared
        "LoHa": 2 * lora,  # two pairs
    }[method]
'''

RIGHT = {
    "a chain of ifs": """\
def trained_numbers(method, d_in, d_out, r):
    if method == "VeRA":
        return d_out + r
    if method == "LoRA-FA":
        return r * d_out
    count = (d_in + d_out) * r
    if method == "LoHa":
        count = count * 2
    elif method == "DoRA":
        count = count + d_out
    return float(count)
""",
    "tensors of these shapes": """\
def trained_numbers(method, d_in, d_out, r):
    A, B, m = (r, d_in), (d_out, r), (d_out,)
    trained = {"LoRA": [A, B], "LoRA-FA": [B], "DoRA": [A, B, m], "VeRA": [m, (r,)], "LoHa": [A, B, A, B]}
    return sum(torch.empty(shape, device="meta").numel() for shape in trained[method])
""",
    "a table in NumPy": """\
def trained_numbers(method, d_in, d_out, r):
    import numpy as np

    row = ["LoRA", "LoRA-FA", "DoRA", "VeRA", "LoHa"].index(method)
    table = np.array([[1, 1, 0, 0], [0, 1, 0, 0], [1, 1, 1, 0], [0, 0, 1, 1], [2, 2, 0, 0]])
    return (table @ np.array([r * d_in, r * d_out, d_out, r]))[row]
""",
    "match": """\
def trained_numbers(method, d_in, d_out, r):
    match method:
        case "LoRA" | "DoRA":
            count = d_in * r + d_out * (r + (method == "DoRA"))
        case "LoHa":
            count = 2 * r * d_in + 2 * r * d_out
        case "LoRA-FA":
            count = d_out * r
        case _:
            count = r + d_out
    return torch.tensor(count)
""",
}

_WRONG = """\
def trained_numbers(method, d_in, d_out, r):
    lora = r * (d_in + d_out)
    counts = {{"LoRA": lora, "LoRA-FA": d_out * r, "DoRA": lora + d_out, "VeRA": d_out + r, "LoHa": 2 * lora}}
    counts.update({})
    return counts[method]
"""
WRONG = {
    "multiplies the sides": (
        _WRONG.format('{"LoRA": d_in * d_out}'),
        "that is the whole matrix; A is (r, d_in) and B is (d_out, r)",
    ),
    "counts A alone": (_WRONG.format('{"LoRA": r * d_in}'), "that is A alone; B trains, too"),
    "counts B alone": (_WRONG.format('{"LoRA": r * d_out}'), "that is B alone; A trains, too"),
    "doubles the input side": (
        _WRONG.format('{"LoRA": 2 * r * d_in}'),
        "B is (d_out, r): its long side is the output's",
    ),
    "doubles the output side": (
        _WRONG.format('{"LoRA": 2 * r * d_out}'),
        "A is (r, d_in): its long side is the input's",
    ),
    "forgets the rank": (_WRONG.format('{"LoRA": d_in + d_out}'), "A has r rows and B has r columns"),
    "trains A in LoRA-FA": (_WRONG.format('{"LoRA-FA": r * d_in}'), "A is frozen, B trains"),
    "freezes nothing in LoRA-FA": (_WRONG.format('{"LoRA-FA": lora}'), "A is frozen in LoRA-FA"),
    "one magnitude for each column": (_WRONG.format('{"DoRA": lora + d_in}'), "one magnitude for each row of W"),
    "forgets DoRA's magnitudes": (_WRONG.format('{"DoRA": lora}'), "DoRA trains the magnitudes m, too"),
    "one magnitude for all": (
        _WRONG.format('{"DoRA": lora + 1}'),
        "m is one number for each row of W, not one for all",
    ),
    "one magnitude for each rank": (_WRONG.format('{"DoRA": lora + r}'), "m has nothing to do with the rank"),
    "counts VeRA's frozen matrices": (
        _WRONG.format('{"VeRA": lora + d_out + r}'),
        "VeRA's A and B are frozen and shared; only its two vectors train",
    ),
    "swaps VeRA's vectors": (_WRONG.format('{"VeRA": d_in + r}'), "b is as long as the output, d as long as the rank"),
    "two long vectors in VeRA": (_WRONG.format('{"VeRA": d_in + d_out}'), "d, between A and B, is as long as the rank"),
    "forgets VeRA's d": (_WRONG.format('{"VeRA": d_out}'), "and d, as long as the rank?"),
    "forgets VeRA's b": (_WRONG.format('{"VeRA": r}'), "and b, as long as the output?"),
    "multiplies VeRA's vectors": (_WRONG.format('{"VeRA": d_out * r}'), "two vectors are no matrix: add their lengths"),
    "gives LoHa one pair": (
        _WRONG.format('{"LoHa": lora}'),
        "LoHa multiplies two low-rank matrices, so it has two pairs",
    ),
    "gives LoHa whole matrices": (
        _WRONG.format('{"LoHa": 2 * d_in * d_out}'),
        "those are two whole matrices; each is a product of thin ones",
    ),
    "squares the rank of LoHa": (
        _WRONG.format('{"LoHa": r * r * (d_in + d_out)}'),
        "the product's rank may reach r², but four matrices of rank r train",
    ),
}


def check(student: Callable[..., Any]) -> None:
    cases = []
    for d_in, d_out, r in ((7, 4, 2), (3, 5, 1), (64, 48, 4), (1024, 3072, 256)):
        lora = r * (d_in + d_out)
        counts = {"LoRA": lora, "LoRA-FA": d_out * r, "DoRA": lora + d_out, "VeRA": d_out + r, "LoHa": 2 * lora}
        for method, expected in counts.items():
            words = f"{method}, d_in = {d_in}, d_out = {d_out} and r = {r}"
            cases.append(Case((method, d_in, d_out, r), expected, words))
    compare(student, cases, WRONG)
