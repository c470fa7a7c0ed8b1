"""Every mutant of every exercise's reference solution is rejected, or stands in the table of those that are no mistake.

An entry of the table names a mutant, "…" standing for any text; "a ∘ b → b ∘ a" is a sum or product of numbers in
another order. An entry is stale, and fails, when no accepted mutant is like it.
"""

import ast
import re
import signal
import warnings

import pytest
from mutants import mutants

from peft_lessons.classroom.exercises import build, exercise_ids, load_exercise
from peft_lessons.classroom.exercises.exercise import assess

SWAPPED = "a ∘ b → b ∘ a"
EQUIVALENT = {
    "00-trainable-share": {
        "p → -p…": "as many values, and only their number counts",
        "p → p + 1…": "as many values",
        "p → p - 1…": "as many values",
        "p → p.T…": "as many values",
        "p → p.bfloat16()…": "as many values",
        "p → p.half()…": "as many values",
        "p → p.float()…": "as many values",
        "model → model.float()…": "float32 already",
    },
    "01-repair": {
        SWAPPED: "the same sum or product",
        "self.linear(x) + … → self.linear(x).add_(…": "in place on what the layer has just made, nobody else's",
        "self.linear(x) + … → (self.scaling * …).add_(self.linear(x))": "in place on its own update",
        "self.scaling * … → (…).mul_(self.scaling)": "in place on its own product",
        "torch.randn(rank, linear.in_features) / … → …": "A is random; how large it starts is free",
        "linear.in_features ** 0.5 → …": "A is random; how large it starts is free",
        "linear.in_features → linear.out_features [2]": "A is random; how large it starts is free",
        "0.5 → …": "A is random; how large it starts is free",
        "… → ….float()…": "float32 already",
    },
    "02-step-flops": {SWAPPED: "the same sum or product", "… → int(…)…": "a whole number already"},
    "02-train-bytes": {
        SWAPPED: "the same sum or product",
        "… → int(…)…": "a whole number already",
        **{
            f"{one} → {other}": "all four take 4 bytes"
            for one in ("weight", "gradient", "first_mean", "second_mean")
            for other in ("weight", "gradient", "first_mean", "second_mean")
            if one != other
        },
    },
    "03-forward": {
        SWAPPED: "the same sum or product",
        "base + … → base.add_(…)": "in place on what the function has just made",
        "base + … → (alpha …).add_(base)": "in place on its own update",
        "alpha / A.shape[0] * … → (x @ A.T @ B.T).mul_(…)": "in place on its own product",
        "… → ….float()…": "float32 already",
        "A → -A": "in `A.shape`: the same shape",
        "A → A + 1": "in `A.shape`: the same shape",
        "A → A - 1": "in `A.shape`: the same shape",
        "A → A.bfloat16()": "in `A.shape`: the same shape",
        "A → A.half()": "in `A.shape`: the same shape",
    },
    "03-gradients": {SWAPPED: "the same product"},
    "03-merge": {
        SWAPPED: "the same sum or product",
        "alpha / rank * … → (B.float() @ A.float()).mul_(alpha / rank)": "in place on its own product",
        "weight.float() + delta → delta.add_(weight.float())": "in place on its own product",
        "weight.float() → weight": "torch adds bfloat16 and float32 in float32",
        "weight.dtype → weight": "`to` takes a tensor for its dtype",
        "weight → -weight": "in `weight.dtype`: the same dtype",
        "weight → weight + 1": "in `weight.dtype`: the same dtype",
        "weight → weight - 1": "in `weight.dtype`: the same dtype",
        "weight → weight.T": "in `weight.dtype`: the same dtype",
        "… → ….float()…": "float32 already",
    },
    "04-overlap": {
        "… → ….float()…": "float32 already",
        "((mine @ theirs.T) ** 2).sum().item() → ((mine @ theirs.T) ** 2).sum()": "a tensor of one number is a number",
        "((mine @ theirs.T) ** 2).sum() → ((mine @ theirs.T) ** 2).sum().T": "one number, turned",
        "min(i, j) → min(j, i)": "the same smaller one",
        "torch.linalg.svd(one, full_matrices=False) → torch.linalg.svd(one)": "the first directions are the same",
        "torch.linalg.svd(other, full_matrices=False) → torch.linalg.svd(other)": "the first directions are the same",
        "False → True": "the first directions are the same",
        "False → True [2]": "the first directions are the same",
        **{
            f"{name} → -{name}": "a direction and its opposite count alike"
            for name in ("one", "other", "mine", "theirs")
        },
        "(mine @ theirs.T) ** 2 → (mine @ theirs.T).pow_(2)": "in place on its own product",
        "(mine @ theirs.T) ** 2 → ((mine @ theirs.T) ** 2).T": "the same sum",
        "mine @ theirs.T → (mine @ theirs.T).T": "the same sum",
    },
    "04-smallest-rank": {
        SWAPPED: "the same sum or product",
        "torch.linalg.svdvals(delta) ** 2 → torch.linalg.svdvals(delta).pow_(2)": "in place on its own values",
        "share * energy.sum() → energy.sum().mul_(share)": "in place on its own sum",
        "len(energy) + 1 → int(len(energy) + 1)": "a whole number already",
        "1 → 2": "the loop returns before it gets there",
        "delta → -delta": "the same singular values",
        "delta → delta.T": "the same singular values",
        "energy → delta": "in `len(energy)`: delta is as long, or longer, and the loop returns before",
        "energy → -energy": "in `len(energy)`: as long",
        "energy → energy + 1": "in `len(energy)`: as long",
        "energy → energy - 1": "in `len(energy)`: as long",
        "energy → energy.bfloat16()": "in `len(energy)`: as long",
        "energy → energy.half()": "in `len(energy)`: as long",
        "… → ….T…": "one dimension or none: nothing to transpose",
        "… → ….float()…": "float32 already",
    },
    "05-groups": {
        SWAPPED: "the same product",
        "parameter → -parameter": "in `requires_grad`: the same",
        "parameter → parameter + 1": "in `requires_grad`: the same",
        "parameter → parameter - 1": "in `requires_grad`: the same",
        "parameter → parameter.T": "in `requires_grad`: the same",
        "parameter → parameter.bfloat16()": "in `requires_grad`: the same",
        "parameter → parameter.half()": "in `requires_grad`: the same",
        "… → ….float()…": "float32 already",
        "'lora_B' → 'ora_B'": "no other parameter's name ends so",
    },
    "06-absmax": {
        "2 ** (bits - 1) - 1 → int(…)": "a whole number already",
        "2 ** (bits - 1) → int(…)": "a whole number already",
        "bits - 1 → int(…)": "a whole number already",
        "x.abs().max() / n → x.abs().max().div_(n)": "in place on its own maximum",
        "torch.round(…) → torch.round_(…)": "in place on its own quotient",
        "torch.round(…) → ….bfloat16()": "whole numbers up to 127 are exact",
        "torch.round(…) → ….half()": "whole numbers up to 127 are exact",
        "x.abs().max() / n → (x.abs().max() / n).T": "no dimension: nothing to transpose",
        "x.abs().max() → x.abs().max().T": "no dimension: nothing to transpose",
        "scale → scale.T…": "no dimension: nothing to transpose",
        "x.abs() → x.abs().T": "the same maximum",
        "x → -x [2]": "in `x.abs()`: the same magnitudes",
        "x → x.T [2]": "in `x.abs().max()`: the same maximum",
        "scale > 0 → scale != 0": "a scale is never below 0",
        "1 → 2 [3]": "where all is 0, any divisor but 0 does",
        "1 → -1 [3]": "where all is 0, any divisor but 0 does",
        "scale → scale.bfloat16() [3]": "in `scale > 0`: as much above 0",
        "scale → scale.half() [3]": "in `scale > 0`: as much above 0, for all but the tiniest scales",
        "… → ….float()…": "float32 already",
    },
    "06-blocks": {
        SWAPPED: "the same product",
        "(scaled[..., None] - levels).abs() → (scaled[..., None] - levels).abs_()": "in place on its own values",
        "(scaled[..., None] - levels).abs → (scaled[..., None] - levels).square": "the least square is nearest, too",
        "scaled[..., None] - levels → levels - scaled[..., None]": "the same distance",
        "levels[codes] * absmax → levels[codes].mul_(absmax)": "in place on the levels that it has picked",
        "blocks → -blocks [2]": "in `blocks.abs()`: the same magnitudes",
        "1 → -1 [2]": "dim=-1 is dim=1, the last one",
        "absmax > 0 → absmax != 0": "a magnitude is never below 0",
        "1 → 2 [3]": "where all is 0, any divisor but 0 does",
        "1 → -1 [3]": "where all is 0, any divisor but 0 does",
        "x → -x [2]": "in `x.shape`: the same shape",
        "x → x + 1 [2]": "in `x.shape`: the same shape",
        "x → x - 1 [2]": "in `x.shape`: the same shape",
        "x → x.bfloat16() [2]": "in `x.shape`: the same shape",
        "x → x.half() [2]": "in `x.shape`: the same shape",
        "absmax → absmax.bfloat16() [2]": "in `absmax > 0`: as much above 0",
        "absmax → absmax.half() [2]": "in `absmax > 0`: as much above 0, for all but the tiniest",
        "x → x.T…": "one dimension: nothing to transpose",
        "levels → levels.T…": "one dimension: nothing to transpose",
        "… → ….view(x.shape).T": "one dimension: nothing to transpose",
        "… → ….float()…": "float32 already",
    },
    "06-normal-levels": {
        "levels.sort().values / positive.max() → levels.sort().values.div_(positive.max())": "in place on its own copy",
        "[positive, -negative, …] → [-negative, positive, …]": "they are sorted afterwards",
        "[positive, -negative, …] → [positive, …, -negative]": "they are sorted afterwards",
        "positive → levels [2]": "in `positive.max()`: the same maximum",
        "positive → negative [2]": "in `positive.max()`: either side begins at o",
        "… → torch.zeros(1)": "0 is 0 in float32, too, and `cat` makes it float64",
        "… → torch.zeros(1, dtype=torch.float64).bfloat16()": "0 is 0 in bfloat16, too",
        "… → torch.zeros(1, dtype=torch.float64).half()": "0 is 0 in half, too",
        "torch.float64 → torch.bfloat16 [3]": "0 is 0 in bfloat16, too",
        "torch.float64 → torch.float16 [3]": "0 is 0 in half, too",
        "torch.linspace(…) → torch.linspace(o, 0.5, …)": "exact enough, and `cat` makes it float64",
        "torch.float64 → torch.float32…": "exact enough, and `cat` makes it float64",
        "… → ….float()": "exact enough, and `cat` makes it float64",
        "… → ….float() [2]": "exact enough, and `cat` makes it float64",
        "… → ….T…": "one dimension or none: nothing to transpose",
    },
    "07-stored-bytes": {SWAPPED: "the same sum or product", "… → int(…)…": "a whole number already"},
    "08-labels": {SWAPPED: "a list times a number"},
    "08-stops": {
        "(row[length:] == end).nonzero() → (row[length:] == end).nonzero()…": "small whole numbers, read by `int`",
        "places → …": "only how many there are",
        "places[0] → places[0]…": "a small whole number, read by `int`",
        "row → row.T…": "one dimension",
        "row[length:] → row[length:].T": "one dimension",
        "row[length:] → row[length:].float()": "exact for ids of 24 bits",
        "row → row.float() [3]": "exact for ids of 24 bits",
        "length + int(places[0]) → int(places[0]) + length": "the same sum",
        "length + int(places[0]) + 1 → 1 + (length + int(places[0]))": "the same sum",
        "length + int(places[0])… → int(…)": "a whole number already",
        "int(places[0]) → places[0]": "a tensor of one number is an index",
    },
    "09-forwards": {
        "if method == … → if False: …": "leaves a method out, which is allowed",
        "if method == 'LoHa': … → if True: …": "answers what nobody asks",
        "if method == 'LoHa': … → if not …": "leaves a method out, and answers what nobody asks",
        "return … → pass": "leaves a method out, which is allowed",
        "method == … → method … …": "leaves a method out, or answers what nobody asks",
        "method → …": "leaves a method out, which is allowed",
        "'VeRA' → …": "leaves a method out, which is allowed",
        "'DoRA' → …": "leaves a method out, which is allowed",
        "'IA³' → …": "leaves a method out, which is allowed",
        "'LoHa' → …": "leaves a method out, which is allowed",
        SWAPPED: "the same sum or product",
        "… → ….add_(…": "in place on what the function has just made",
        "… → ….mul_(…": "in place on what the function has just made",
        "… → ….div_(…": "in place on what the function has just made",
        "… → ….float()…": "float32 already",
        "p['l'] → p['l'].T": "one dimension",
        "p['b'] → p['b'].T": "one dimension",
        "p['d'] → p['d'].T": "one dimension",
        "p['m'] → p['m'].T": "one dimension",
        "V → -V [2]": "as long as before",
        "1 → -1": "the last dimension of two",
    },
    "09-counts": {SWAPPED: "the same sum or product", "… → int(…)…": "a whole number already"},
    "10-intruders": {
        "int((likeness < threshold).sum()) → (likeness < threshold).sum()": "a tensor with one number is a number",
        "(likeness < threshold).sum() → (likeness < threshold).sum().bfloat16()": "small whole numbers are exact",
        "(likeness < threshold).sum() → (likeness < threshold).sum().half()": "small whole numbers are exact",
        "(old.T @ new).abs() → (old.T @ new).abs_()": "in place on its own products",
        "before → -before": "the same directions",
        "after → -after": "the same directions",
        "old → -old": "the same directions",
        "new → -new": "the same directions",
        "… → ….T": "one dimension or none: nothing to transpose",
        "… → ….float()…": "float32 already, or a whole number",
    },
    "11-standard-errors": {SWAPPED: "the same sum or product"},
    "12-mixed": {
        SWAPPED: "the same sum or product",
        "… → ….float()…": "float32 already",
        "name is not None → name != None": "names are strings or None",
        "y[i] + … → y[i].add_(…": "in place on what the function has just made",
        "y[i] + … → (scaling …).add_(y[i])": "in place on its own update",
        "scaling * … → (x[i] @ A.T @ B.T).mul_(…)": "in place on its own product",
    },
    "12-peft-files": {
        "sorted({…}) → list({…})": "in which order targets are listed is free",
        "sorted({…}) → tuple({…})": "JSON writes a tuple as a list",
    },
    "13-batch": {
        SWAPPED: "the same sum or product",
        "… → int(…)…": "a whole number already",
        "places[0] == 0 → places[0] <= 0": "no place is below 0",
        "token != -100 → token > -100": "no label is below −100",
        "answer.count(end) != 1 → answer.count(end) > 1": "where there is none, the last one is none",
        "last + 1 → last [2]": "the answer's end is an end as well",
        "last → last - 1 [2]": "the answer's end is an end as well",
        "1 → 0 [4]": "the answer's end is an end as well",
        "answer → label [3]": "they are equal by then",
    },
    "13-reloaded": {
        SWAPPED: "the same sum or product",
        "… → ….T…": "a maximum does not ask for the order",
        "… → ….bfloat16()…": "three digits are enough for a bound",
        "… → ….half()…": "three digits are enough for a bound",
        "… → ….float()…": "float32 already",
        "… → before.abs().max().mul_(0.0001)": "in place on its own maximum",
        "….abs() → ….abs_()": "in place on its own difference",
        "… → ….sub_(…": "in place on its own logits, which nobody asks for again",
        "before - after → after - before": "a difference has one size both ways",
        "after - off → off - after": "a difference has one size both ways",
        "before → -before": "a number has one size with both signs",
        "(trained(ids), loaded(ids)) → (loaded(ids), trained(ids))": "where it matters they agree",
        "before → after": "where it matters they agree",
        "after → before [2]": "where it matters they agree",
        "… <= rounding → … < rounding": "nothing differs by just the bound",
        "… > rounding → … >= rounding": "nothing differs by just the bound",
    },
    "14-advantages": {"… → ….float()…": "float32 already", "1 → -1": "the last of two dimensions"},
    "14-dpo": {
        SWAPPED: "the same sum or product",
        "… → ….T…": "one dimension stays as it is",
        "… → ….float()…": "float32 already",
        "… → ….sub_(…": "in place on its own difference",
        "beta * gap → gap.mul_(beta)": "in place on its own difference",
    },
    "15-request": {},
    "15-rows": {
        "1 → -1 [2]": "the last of two dimensions",
        "halves.transpose(1, 2) → halves.transpose_(1, 2)": "in place on its own view",
        "halves.transpose(1, 2) → halves.transpose(2, 1)": "the same two dimensions",
        "rows → -rows [2]": "in `rows.shape`: the same shape",
        "rows → -rows [3]": "in `rows.shape`: the same shape",
        "rows → rows + 1 […": "in `rows.shape`: the same shape",
        "rows → rows - 1 […": "in `rows.shape`: the same shape",
        "rows → rows.bfloat16() […": "in `rows.shape`: the same shape",
        "rows → rows.half() […": "in `rows.shape`: the same shape",
        "rows → rows.float() […": "in `rows.shape`: the same shape",
        "2 → -2 [2]": "the same dimension of four",
    },
    "16-euler": {
        SWAPPED: "the same sum or product",
        "… → ….T": "one dimension stays as it is",
        "… → ….float()…": "float32 already",
        "… → ….add_(x)": "in place on its own movement",
        "… → velocity(x, times).mul_(step)": "in place on what the model has just said",
        "x → -x [2]": "in `len(x)`: as many",
        "x → x + 1 [2]": "in `len(x)`: as many",
        "x → x - 1 [2]": "in `len(x)`: as many",
        "x → x.bfloat16() [2]": "in `len(x)`: as many",
        "x → x.half() [2]": "in `len(x)`: as many",
    },
    "16-velocity": {
        SWAPPED: "the same sum or product",
        "… → ….T…": "a mean does not ask for the order; one dimension or none stays as it is",
        "… → ….float()…": "float32 already",
        "… → ….half()…": "in a mean over squares its rounding is lost",
        "noise → noise.bfloat16()": "in a mean over squares its rounding is lost",
        "… → ….add_(…": "in place on its own product",
        "… → ….pow_(2)": "in place on its own difference",
        "… → ….sub_(…": "in place on its own difference, or on what the model has just said",
        "… → images - noise - velocity(between, times)": "a square has no sign",
    },
}


def like(mutant: str, entry: str) -> bool:
    """Whether the mutant is the one, or one of those, that the entry names."""
    if entry == SWAPPED:
        try:
            before, after = (
                ast.parse(part, mode="eval").body for part in re.sub(r" \[\d+\]$", "", mutant).split(" → ")
            )
        except SyntaxError:  # a mutant of a statement
            return False
        return (
            isinstance(before, ast.BinOp)
            and isinstance(before.op, ast.Add | ast.Mult)
            and ast.unparse(ast.BinOp(before.right, before.op, before.left)) == ast.unparse(after)
        )
    return re.fullmatch(".*".join(map(re.escape, entry.split("…"))), mutant) is not None


def test_what_an_entry_names():
    assert like("a + b → b + a", SWAPPED) and like("a * (b + c) → (b + c) * a [2]", SWAPPED)
    assert not like("a - b → b - a", SWAPPED) and not like("a + b → a", SWAPPED)
    assert like("x.abs() → x.abs().float() [2]", "… → ….float()…") and not like("x → x.T (2)", "x → x.T")


def test_mutants_are_small_mistakes():
    found = mutants("def f(x, n):\n    if x[0] > n:\n        return x / n, -x.max(dim=1)\n    return n * 2\n")
    for name in (
        "x[0] > n → x[0] >= n",
        "x / n → x // n",
        "x / n → n / x",
        "x → n",
        "1 → 0",
        "2 → 3",
        "(x / n, -x.max(dim=1)) → (-x.max(dim=1), x / n)",
        "x.max(dim=1) → x.max()",
        "x.max → x.min",
        "-x.max(dim=1) → x.max(dim=1)",
        "x / n → x.div_(n)",
        "x → x.T",
        "x → x.bfloat16()",
        "if x[0] > n: return (x / n, -x.max(dim=1)) → if False: return (x / n, -x.max(dim=1))",
    ):
        assert name in found, (name, [other for other in found if other[:4] == name[:4]])
    assert len(set(found.values())) == len(found)


@pytest.fixture
def soon():
    """A mutant that does not end is stopped, as one that fails."""

    def stop(*_):
        raise TimeoutError("the mutant does not end")

    before = signal.signal(signal.SIGALRM, stop)
    yield lambda seconds: signal.setitimer(signal.ITIMER_REAL, seconds)
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize("name", exercise_ids())
def test_mutants_of_the_reference_are_rejected(name, soon):
    specification = load_exercise(name)
    accepted = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for mutant, source in mutants(specification.solution).items():
            soon(10)
            try:
                student = build.__wrapped__(source)
            except Exception:  # it does not even run
                continue
            if assess(specification, student)[0] == "correct":
                accepted.append(mutant)
    table = EQUIVALENT[name]
    assert [mutant for mutant in accepted if not any(like(mutant, entry) for entry in table)] == []
    assert [entry for entry in table if not any(like(mutant, entry) for mutant in accepted)] == [], "stale"
