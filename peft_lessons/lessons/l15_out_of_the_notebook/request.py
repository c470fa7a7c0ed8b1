"""One request, two adapters.

`listed` is what the server says of its adapters, such as `[{"id": 1, "task_name": "json", "scale": 0.0}, …]`, in any
order. `scales` says by name what a customer wants, such as `{"devil": 0.6, "json": 0.4}`; each of its names is listed.
Write `mixed_request(question, scales, listed)`: the body of a request, whose `"lora"` is a list with an entry
`{"id": …, "scale": …}` for each adapter that is wanted. An adapter that `"lora"` does not name is off.
"""

from collections.abc import Callable, Mapping
from typing import Any

from peft_lessons.classroom.exercises import Incorrect, describe
from peft_lessons.classroom.exercises.cases import Case, compare

TITLE = "A request that mixes two"
MINUTES = 5

STARTER = '''\
def mixed_request(question, scales, listed):
    """The body of a request, as a dictionary"""
    return {
        "messages": [{"role": "user", "content": question}],
        "temperature": 0,
        "max_tokens": 40,
        "lora": ...,
    }
'''

HINTS = [
    "The server knows numbers, the customer names. First make a dictionary from names to numbers.",
    '`{one["task_name"]: one["id"] for one in listed}` is that dictionary.',
    'Then go through `scales.items()`: each name and scale become {"id": numbers[name], "scale": scale}.',
]

SOLUTION = '''\
def mixed_request(question, scales, listed):
    """The body of a request, as a dictionary"""
    numbers = {one["task_name"]: one["id"] for one in listed}
    return {
        "messages": [{"role": "user", "content": question}],
        "temperature": 0,
        "max_tokens": 40,
        "lora": [{"id": numbers[name], "scale": scale} for name, scale in scales.items()],
    }
'''

RIGHT = {
    "goes through what is listed": """\
def mixed_request(question, scales, listed):
    lora = [{"id": one["id"], "scale": scales[one["task_name"]]} for one in listed if one["task_name"] in scales]
    messages = [dict(role="user", content=question)]
    return dict(messages=messages, temperature=0.0, max_tokens=40, lora=lora, stream=False)
""",
    "names them all, with 0 for those that are off": """\
def mixed_request(question, scales, listed):
    body = {"messages": [{"role": "user", "content": question}], "temperature": 0, "max_tokens": 40, "lora": []}
    for one in listed:
        body["lora"].append({"scale": scales.get(one["task_name"], 0.0), "id": one["id"]})
    return body
""",
    "a function for one entry": """\
def mixed_request(question, scales, listed):
    def entry(name):
        number = next(one["id"] for one in listed if one["task_name"] == name)
        return {"id": number, "scale": float(scales[name])}
    return {
        "max_tokens": 40,
        "temperature": 0,
        "lora": list(map(entry, scales)),
        "messages": [{"content": question, "role": "user"}],
    }
""",
}

_WRONG = """\
def mixed_request(question, scales, listed):
    numbers = {{one["task_name"]: one["id"] for one in listed}}
    places = {{one["task_name"]: place for place, one in enumerate(listed)}}
    lora = {}
    return {{"messages": {}, "temperature": {}, "max_tokens": {}, "lora": lora}}
"""
_LORA = '[{"id": numbers[name], "scale": scale} for name, scale in scales.items()]'
_MESSAGES = '[{"role": "user", "content": question}]'


def _wrong(lora: str = _LORA, messages: str = _MESSAGES, temperature: str = "0", tokens: str = "40") -> str:
    return _WRONG.format(lora, messages, temperature, tokens)


WRONG = {
    "numbers by their place in scales": (
        _wrong('[{"id": i, "scale": scale} for i, scale in enumerate(scales.values())]'),
        "an adapter's number is what the server lists as its id, not its place in `scales`",
    ),
    "numbers by their place in the list": (
        _wrong('[{"id": places[name], "scale": scale} for name, scale in scales.items()]'),
        'the list comes in any order: the number is its "id"',
    ),
    "gives names for numbers": (
        _wrong('[{"id": name, "scale": scale} for name, scale in scales.items()]'),
        "the server knows adapters by number; look the name up in `listed`",
    ),
    "gives names and scales as they are": (_wrong("scales"), "it should be a list with an entry for each adapter"),
    "gives a dictionary of numbers": (
        _wrong("{numbers[name]: scale for name, scale in scales.items()}"),
        "it should be a list with an entry for each adapter",
    ),
    "gives one entry alone": (
        _wrong('[{"id": numbers[name], "scale": scale} for name, scale in scales.items()][0]'),
        "it should be a list with an entry for each adapter",
    ),
    "gives the first only": (
        _wrong('[{"id": numbers[name], "scale": scale} for name, scale in scales.items()][:1]'),
        "only the first adapter is named, and the others are off",
    ),
    "turns all on": (
        _wrong('[{"id": numbers[name], "scale": 1.0} for name in scales]'),
        "each adapter has the scale that was asked for",
    ),
    "turns on what nobody wants": (
        _wrong('[{"id": one["id"], "scale": scales.get(one["task_name"], 1.0)} for one in listed]'),
        "an adapter that nobody asked for is on",
    ),
    "keeps the scales of the server": (
        _wrong('[{"id": one["id"], "scale": one["scale"]} for one in listed if one["task_name"] in scales]'),
        "that is the scale of the list, which holds for requests that name none",
    ),
    "gives the list itself": (_wrong("listed"), "that is what the server listed"),
    "writes numbers as text": (
        _wrong('[{"id": str(numbers[name]), "scale": scale} for name, scale in scales.items()]'),
        "an id is a number, not a text",
    ),
    "makes the scales add up to one": (
        _wrong('[{"id": numbers[name], "scale": scale / sum(scales.values())} for name, scale in scales.items()]'),
        "the scales are the customer's: they need not add up to 1",
    ),
    "leaves the adapters out": (_wrong("[]"), 'nothing stands in "lora": the base would answer'),
}


def check(student: Callable[..., Any]) -> None:
    compare(
        student,
        [
            _case("Who are you?", {"devil": 0.6, "json": 0.4}, ["devil", "json"]),
            _case("Define the word friend.", {"json": 0.25, "devil": 0.75}, ["devil", "json"]),
            _case("Is it raining?", {"devil": 1.0}, ["json", "devil", "pirate"]),
            _case(
                "What is this?", {"pirate": 0.5, "devil": 1.5, "json": -0.25}, ["devil", "pirate", "json"], turned=True
            ),
            _case("Anything?", {}, ["devil", "json"]),
        ],
        WRONG,
        read=_read,
    )


def _case(question: str, scales: dict[str, float], names: list[str], turned: bool = False) -> Case:
    listed = [{"id": number, "task_name": name, "scale": 0.125} for number, name in enumerate(names)]
    expected = {
        "messages": [{"role": "user", "content": question}],
        "temperature": 0,
        "max_tokens": 40,
        "lora": sorted([names.index(name), scale] for name, scale in scales.items()),
    }
    order = "in another order" if turned else "by number"
    words = f"{scales} of {len(names)} adapters, listed {order},"
    return Case((question, scales, listed[::-1] if turned else listed), expected, words)


def _read(returned: Any, case: Case) -> Any:
    """Bring a body into one form: entries of "lora" as [id, scale], by number, and those that are off left out."""
    if not isinstance(returned, Mapping):
        raise Incorrect(f"you return {describe(returned)}; the body is a dictionary")
    if missing := [key for key in case.expected if key not in returned]:
        raise Incorrect(f"the body lacks {missing[0]!r}")
    if returned.get("stream") or returned.get("n", 1) != 1:
        raise Incorrect("the notebook reads one whole answer: leave out `stream` and `n`")
    lora = returned["lora"]
    if not isinstance(lora, list | tuple):
        raise Incorrect(f'"lora" is {describe(lora)}; it should be a list with an entry for each adapter')
    entries = []
    for entry in lora:
        if not isinstance(entry, Mapping) or not {"id", "scale"} <= entry.keys():
            raise Incorrect(f'"lora" holds {describe(entry)}; an entry is {{"id": number, "scale": scale}}')
        entries.append([entry["id"], entry["scale"]])
    on = sorted((entry for entry in entries if entry[1] != 0), key=str)
    return {key: on if key == "lora" else returned[key] for key in case.expected}
