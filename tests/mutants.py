"""Mutants of a source: copies with one small mistake each, as people make them and as a check must reject them.

`mutants(source)` makes them from the syntax tree, one change at one place each: an operand swapped or dropped, another
operator, a constant one off, a call left out, another axis, a transpose too many, a dtype too narrow, an operation in
place, a condition left out. Each is named by what stands where: "alpha / rank → alpha // rank".
"""

import ast
from collections.abc import Iterator

OPERATORS = {
    ast.Add: [ast.Sub],
    ast.Sub: [ast.Add],
    ast.Mult: [ast.Div, ast.Add],
    ast.Div: [ast.Mult, ast.FloorDiv],
    ast.FloorDiv: [ast.Div],
    ast.Pow: [ast.Mult],
    ast.MatMult: [ast.Mult],
}
IN_PLACE = {ast.Add: "add_", ast.Sub: "sub_", ast.Mult: "mul_", ast.Div: "div_", ast.Pow: "pow_"}
COMPARISONS = [ast.Lt, ast.LtE, ast.Gt, ast.GtE, ast.Eq, ast.NotEq]
NAMES = {
    "max": ["min", "mean"],
    "amax": ["amin", "mean"],
    "sum": ["mean", "max", "prod"],
    "argmin": ["argmax"],
    "abs": ["square"],
    "round": ["floor", "ceil", "trunc"],
    "zeros": ["ones", "empty", "randn"],
    "randn": ["zeros", "ones", "empty"],
    "float": ["half", "bfloat16", "int"],
    "sorted": ["list", "set", "tuple", "str"],
    "cat": ["stack"],
    "where": ["mul"],
    "svdvals": ["eigvals"],
    "U": ["Vh", "S"],
    "values": ["indices", "keys"],
    "items": ["keys", "values"],
    "in_features": ["out_features"],
    "out_features": ["in_features"],
    "endswith": ["startswith"],
    "float64": ["float32", "bfloat16", "float16"],
    "int8": ["int16", "uint8", "float32"],
    "append": ["extend"],
}
CASTS = ("bfloat16", "half", "float")


def mutants(source: str) -> dict[str, str]:
    """Name → source of every mutant of `source`, without those that are the same program."""
    tree = ast.parse(source)
    original, found, seen = ast.unparse(tree), {}, set()
    stored = (node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store))
    names = sorted({node.arg for node in ast.walk(tree) if isinstance(node, ast.arg)} | set(stored))
    for holder, key, node in list(_slots(tree)):
        for other in _alternatives(node, names):
            name = f"{_text(node)} → {_text(other)}"
            _put(holder, key, other)
            changed = ast.unparse(ast.fix_missing_locations(tree))
            _put(holder, key, node)
            if changed != original and changed not in seen:
                seen.add(changed)
                names_taken = sum(other == name or other.startswith(f"{name} [") for other in found)
                found[f"{name} [{names_taken + 1}]" if names_taken else name] = changed
    return found


def _slots(tree: ast.AST) -> Iterator[tuple[object, object, ast.AST]]:
    """Every node that may be changed, with the list or node that holds it and its place there."""
    pending = [tree]
    while pending:
        node = pending.pop(0)
        for field, value in ast.iter_fields(node):
            for place, part in enumerate(value) if isinstance(value, list) else ((None, value),):
                docstring = isinstance(part, ast.Expr) and isinstance(part.value, ast.Constant)
                module = (isinstance(part, ast.Name) and part.id in ("torch", "nn", "self")) or field == "bases"
                if isinstance(part, ast.AST) and not docstring and not module:
                    yield (node, field, part) if place is None else (value, place, part)
                    pending.append(part)


def _put(holder, key, node) -> None:
    if isinstance(holder, list):
        holder[key] = node
    else:
        setattr(holder, key, node)


def _text(node: ast.AST) -> str:
    return " ".join(ast.unparse(node).split())


def _alternatives(node: ast.AST, names: list[str]) -> Iterator[ast.AST]:
    if isinstance(node, ast.Assign | ast.Expr | ast.For | ast.Return):
        yield ast.Pass()
    elif isinstance(node, ast.If):
        yield from (ast.If(ast.Constant(value), node.body, node.orelse) for value in (True, False))
        yield ast.If(ast.UnaryOp(ast.Not(), node.test), node.body, node.orelse)
    elif isinstance(node, ast.comprehension):
        for place, test in enumerate(node.ifs):
            rest = node.ifs[:place] + node.ifs[place + 1 :]
            yield ast.comprehension(node.target, node.iter, rest, 0)
            yield ast.comprehension(node.target, node.iter, [*rest, ast.UnaryOp(ast.Not(), test)], 0)
    elif isinstance(node, ast.expr) and isinstance(getattr(node, "ctx", ast.Load()), ast.Load):
        yield from _expressions(node, names)


def _expressions(node: ast.expr, names: list[str]) -> Iterator[ast.expr]:
    match node:
        case ast.BinOp(left, op, right):
            yield from (ast.BinOp(left, other(), right) for other in OPERATORS.get(type(op), []))
            yield ast.BinOp(right, op, left)
            yield from (left, right)
            if in_place := IN_PLACE.get(type(op)):
                yield _call(left, in_place, right)
                yield _call(right, in_place, left)
        case ast.UnaryOp(_, operand):
            yield operand
        case ast.Compare(left, [op], [right]):
            yield from (ast.Compare(left, [other()], [right]) for other in COMPARISONS if other is not type(op))
        case ast.Constant(bool() as value):
            yield ast.Constant(not value)
        case ast.Constant(int() as value):
            yield from (ast.Constant(value + 1), ast.Constant(value - 1), ast.Constant(-value), ast.Constant(2 * value))
        case ast.Constant(float() as value):
            yield from (ast.Constant(value * factor) for factor in (1.01, 0.99, 2, -1))
        case ast.Constant(str() as value):
            yield from (ast.Constant(value + "_"), ast.Constant(value[1:]), ast.Constant(value.lower()))
        case ast.IfExp(test, body, orelse):
            yield from (body, orelse, ast.IfExp(test, orelse, body))
        case ast.Tuple(parts) | ast.List(parts) if parts:
            yield from (type(node)(other, ast.Load()) for other in _shuffled(parts))
        case ast.Dict(keys, values):
            for place in range(len(keys)):
                yield ast.Dict(keys[:place] + keys[place + 1 :], values[:place] + values[place + 1 :])
            yield from (ast.Dict(keys, other) for other in _shuffled(values) if len(other) == len(keys))
        case ast.Subscript(value, index):
            yield value
            if isinstance(index, ast.Slice):
                yield ast.Subscript(value, ast.Slice(index.upper, index.lower, index.step), ast.Load())
                yield ast.Subscript(value, ast.Slice(index.lower, index.upper, ast.Constant(2)), ast.Load())
        case ast.Attribute(value, name):
            if not ast.unparse(value).startswith(("torch", "nn", "self")):
                yield value
            yield from (ast.Attribute(value, other, ast.Load()) for other in NAMES.get(name, []))
        case ast.Call(function, arguments, keywords):
            if isinstance(function, ast.Attribute):
                yield function.value
                yield ast.Call(ast.Attribute(function.value, function.attr + "_", ast.Load()), arguments, keywords)
            elif isinstance(function, ast.Name):
                yield from (ast.Call(ast.Name(other), arguments, keywords) for other in NAMES.get(function.id, []))
            yield from (part for part in arguments if not isinstance(part, ast.GeneratorExp))
            yield from (ast.Call(function, other, keywords) for other in _shuffled(arguments))
            for place in range(len(keywords)):
                yield ast.Call(function, arguments, keywords[:place] + keywords[place + 1 :])
        case ast.Name(name) if name in names:
            yield from (ast.Name(other) for other in names if other != name)
            yield ast.UnaryOp(ast.USub(), node)
            yield from (ast.BinOp(node, op(), ast.Constant(1)) for op in (ast.Add, ast.Sub))
    if isinstance(node, ast.Name | ast.Attribute | ast.Call | ast.BinOp | ast.Subscript):
        yield ast.Attribute(node, "T", ast.Load())
        yield from (_call(node, cast) for cast in CASTS)
    if isinstance(node, ast.BinOp):
        yield ast.Call(ast.Name("int"), [node], [])


def _shuffled(parts: list) -> Iterator[list]:
    """With two neighbours swapped, with one in the place of its neighbour, and with one left out."""
    for place in range(len(parts)):
        yield parts[:place] + parts[place + 1 :]
        if place + 1 < len(parts):
            one, two = parts[place : place + 2]
            yield from (parts[:place] + pair + parts[place + 2 :] for pair in ([two, one], [one, one], [two, two]))


def _call(value: ast.expr, method: str, *arguments: ast.expr) -> ast.Call:
    return ast.Call(ast.Attribute(value, method, ast.Load()), list(arguments), [])
