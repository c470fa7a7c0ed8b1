"""How many numbers does each method train?

Write `trained_numbers(method, d_in, d_out, r)` for one linear layer that maps `d_in` inputs to `d_out` outputs, where
`method` is "LoRA", "LoRA-FA", "DoRA", "VeRA" or "LoHa", and `r` is the rank. *The map*, at the top of the lesson,
says what each method trains.
"""

from collections.abc import Callable
from typing import Any

from peft_lessons.classroom.exercises import require_number

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

_WRONG = """\
def trained_numbers(method, d_in, d_out, r):
    lora = r * (d_in + d_out)
    counts = {{"LoRA": lora, "LoRA-FA": d_out * r, "DoRA": lora + d_out, "VeRA": d_out + r, "LoHa": 2 * lora}}
    counts.update({})
    return counts[method]
"""
WRONG = {
    "multiplies the sides": (_WRONG.format('{"LoRA": d_in * d_out}'), "the whole matrix"),
    "trains A in LoRA-FA": (_WRONG.format('{"LoRA-FA": r * d_in}'), "A is frozen"),
    "one magnitude for each column": (_WRONG.format('{"DoRA": lora + d_in}'), "for each row"),
    "counts VeRA's frozen matrices": (_WRONG.format('{"VeRA": lora + d_out + r}'), "frozen and shared"),
    "swaps VeRA's vectors": (_WRONG.format('{"VeRA": d_in + r}'), "as long as the output"),
    "gives LoHa one pair": (_WRONG.format('{"LoHa": lora}'), "two pairs"),
}


def check(student: Callable[..., Any]) -> None:
    for d_in, d_out, r in ((5, 3, 1), (64, 48, 4), (3072, 1024, 256)):
        lora = r * (d_in + d_out)
        cases = {
            "LoRA": (lora, {d_in * d_out: "that is the whole matrix; A is (r, d_in) and B is (d_out, r)"}),
            "LoRA-FA": (d_out * r, {d_in * r: "A is frozen, B trains", lora: "A is frozen"}),
            "DoRA": (
                lora + d_out,
                {
                    lora + d_in: "DoRA has one magnitude for each row of W, that is each output",
                    lora: "and m?",
                    lora + 1: "m is one number for each row of W",
                },
            ),
            "VeRA": (
                d_out + r,
                {
                    d_out: "and d, as long as the rank?",
                    lora + d_out + r: "VeRA's A and B are frozen and shared; only its two vectors train",
                    **dict.fromkeys(
                        (d_in + r, d_in + d_out, 2 * r), "b is as long as the output, d as long as the rank"
                    ),
                },
            ),
            "LoHa": (
                2 * lora,
                {
                    lora: "LoHa multiplies two low-rank matrices, so it has two pairs",
                    2 * d_in * d_out: "those are two whole matrices; each is a product of thin ones",
                },
            ),
        }
        for method, (expected, mistakes) in cases.items():
            case = f"{method}, d_in = {d_in}, d_out = {d_out} and r = {r}"
            require_number(student(method, d_in, d_out, r), expected, case, mistakes)
