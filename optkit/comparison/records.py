"""The records of results files, which are checked when they are read; errors name the file and the line."""

import json
import math
import pathlib
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, NoReturn

from jsonschema.exceptions import best_match
from jsonschema.validators import Draft202012Validator, extend

from optkit.comparison.errors import ComparisonError, one_line

Record = dict[str, Any]
Schema = Mapping[str, Any]


# In Python, 3.0 is no integer, and integers may be larger than any array holds.
_Validator = extend(
    Draft202012Validator,
    type_checker=Draft202012Validator.TYPE_CHECKER.redefine("integer", lambda _, x: type(x) is int),
)
_LARGEST = sys.float_info.max
_NOT_BETWEEN_VALUES = re.compile(r"[^\s,:]")


def integer(least: int = 0) -> Schema:
    """Describes an integer that is at least so large."""
    return {"type": "integer", "minimum": least, "maximum": 2**63 - 1}


def list_of(items: Schema, **more: Any) -> Schema:
    """Describes a list that is not empty."""
    return {"type": "array", "items": items, "minItems": 1, **more}


def mapping_of(values: Schema, **more: Any) -> Schema:
    """Describes an object with any keys."""
    return {"type": "object", "additionalProperties": values, **more}


def object_of(**properties: Schema) -> Schema:
    """Describes an object that has these keys, and perhaps others."""
    return {"type": "object", "properties": properties, "required": list(properties)}


TEXT: Schema = {"type": "string"}
FLAG_OR_NULL: Schema = {"type": ["boolean", "null"]}
NUMBER: Schema = {"type": "number", "minimum": -_LARGEST, "maximum": _LARGEST}
NOT_NEGATIVE: Schema = {**NUMBER, "minimum": 0}
# Null stands for what is not finite.
RESULT: Schema = {**NUMBER, "type": ["number", "null"]}
TEXT_OR_NULL: Schema = {"type": ["string", "null"]}

VERSIONS = mapping_of(TEXT)
HARDWARE = object_of(devices=TEXT, processors={"type": ["integer", "null"]}, platform=TEXT)
CURVE = list_of(RESULT)
CURVES = mapping_of(CURVE, required=["loss"])
SCORES = mapping_of(RESULT, required=["loss"])
TIMES = list_of(NOT_NEGATIVE)


def header(kind: str, **settings: Schema) -> Schema:
    """Describes the first record of a run."""
    return object_of(
        record={"const": kind},
        settings=object_of(task=TEXT, optimizers=list_of(TEXT, uniqueItems=True), steps=integer(1), **settings),
        data={"type": "object"},
        versions=VERSIONS,
        hardware=HARDWARE,
    )


_COMPARISON: Mapping[str, Schema] = {
    "run": header(
        "run",
        batch_size=integer(1),
        rates=integer(2),
        rounds=integer(1),
        seeds=list_of(integer(), uniqueItems=True),
        weight_decay=NOT_NEGATIVE,
        tune={"type": "array", "items": TEXT, "uniqueItems": True},
        workers=integer(1),
    ),
    "optimizer": object_of(optimizer=TEXT, program=TEXT, summary=TEXT),
    "training": object_of(
        optimizer=TEXT,
        round=integer(),
        learning_rate=NOT_NEGATIVE,
        tuned=mapping_of(NUMBER),
        seed=integer(),
        steps=list_of(integer()),
        train_loss=CURVE,
        validation=CURVES,
        test=SCORES,
    ),
    "round": object_of(
        optimizer=TEXT,
        round=integer(),
        seeds=list_of(integer(), uniqueItems=True),
        state_bytes_per_parameter=NOT_NEGATIVE,
        milliseconds_per_step={"type": "array", "items": NOT_NEGATIVE},
    ),
}


class Finding(NamedTuple):
    """What is wrong with a line."""

    line: int
    message: str


class Kind(NamedTuple):
    """A kind of run.

    Attributes:
        name: What it is called.
        schemas: What its records must be, by their `record`; the first record's is the first.
        contradictions: Finds what lines contradict in the lines before them.
    """

    name: str
    schemas: Mapping[str, Schema]
    contradictions: Callable[[Sequence[Record]], Iterator[Finding]]


def read_records(folder: pathlib.Path, *kinds: Kind) -> list[Record]:
    """Reads the results of a run.

    Args:
        folder: The run's folder.
        *kinds: The kinds of runs that it may hold.

    Returns:
        The lines of its `results.jsonl`, the run's header first; none where nothing has been written yet.

    Raises:
        ComparisonError: If the file is not what such a run wrote.
    """
    file = folder / "results.jsonl"
    text = _text(file)
    if text is None:
        return []
    lines = text.removesuffix("\n").split("\n")
    records = [_parsed(line, file, number) for number, line in enumerate(lines, 1)]
    head = records[0].get("record") if isinstance(records[0], dict) else None
    known = next((kind for kind in kinds if head == next(iter(kind.schemas))), None)
    if known is None:
        _refuse(file, 1, f"is not the header of a run of {' or '.join(f'`{kind.name}`' for kind in kinds)}")
    for number, record in enumerate(records, 1):
        expected = list(known.schemas)[1:] if number > 1 else list(known.schemas)[:1]
        problem = _problem(record, object_of(record={"enum": expected})) or _problem(
            record, known.schemas[record["record"]]
        )
        if problem:
            _refuse(file, number, problem[1])
    for finding in known.contradictions(records):
        _refuse(file, *finding)
    return records


def read_json(file: pathlib.Path, schema: Schema) -> Any:
    """Reads a results file of one JSON value.

    Args:
        file: Its path.
        schema: What the value must be, as JSON Schema has it.

    Returns:
        The value; None where there is no file.

    Raises:
        ComparisonError: If it is something else.
    """
    text = _text(file)
    if text is None:
        return None
    value = _parsed(text, file)
    problem = _problem(value, schema)
    if problem:
        refuse(file, *problem)
    return value


def refuse(file: pathlib.Path, path: Sequence[str | int], message: str) -> NoReturn:
    """Says what is wrong with a value in a results file.

    Args:
        file: The file, of one JSON value.
        path: The keys and numbers that lead to what is wrong.
        message: What it is.

    Raises:
        ComparisonError: Always, naming the line.
    """
    _refuse(file, _line_of(file.read_text(encoding="utf-8"), path), message)


def with_null(value: Any) -> Any:
    """Returns what `json` can write, with null in place of numbers that are not finite."""
    if isinstance(value, dict):
        return {key: with_null(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [with_null(item) for item in value]
    return value if not isinstance(value, float) or math.isfinite(value) else None


def _text(file):
    try:
        content = file.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ComparisonError(f"cannot read {file}: {one_line(error)}") from error
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        _refuse(file, content[: error.start].count(b"\n") + 1, "is not text in UTF-8")


def _parsed(text, file, line=1):
    try:
        return json.loads(text, parse_constant=_refuse_constant)
    except json.JSONDecodeError as error:
        _refuse(file, line + error.lineno - 1, f"is not JSON: {error.msg} (column {error.colno})")
    except ValueError as error:
        _refuse(file, line, f"is not JSON: {one_line(error)}")
    except RecursionError:
        _refuse(file, line, "is nested too deeply")


def _refuse_constant(name):
    raise ValueError(f"there is no {name}")


def _refuse(file, line, message) -> NoReturn:
    raise ComparisonError(f"{file}, line {line}: {message}; delete the file, or choose another folder")


def _problem(value, schema) -> tuple[list[str | int], str] | None:
    """Returns where a value is not what a schema asks for, and a sentence that says so."""
    try:
        error = best_match(_Validator(schema).iter_errors(value))
    except RecursionError:  # the message shows the value
        return [], "is nested too deeply"
    if error is None:
        return None
    path = list(error.absolute_path)
    place = ".".join(map(str, path))
    message = error.message if len(error.message) < 120 else f"its {error.validator} must be {error.validator_value!r}"
    return path, one_line(f"{place}: {message}" if place else message)


def _line_of(text: str, path: Sequence[str | int]) -> int:
    """Returns the line of a valid JSON text on which the value at a path begins."""
    decode = json.JSONDecoder().raw_decode

    def after(position):
        return next(_NOT_BETWEEN_VALUES.finditer(text, position)).start()

    at = after(0)
    for step in path:
        position, number = after(at + 1), 0
        while text[position] not in "]}":
            key = number
            if isinstance(step, str):
                key, position = decode(text, position)
                position = after(position)
            if key == step:  # the last one, as `json` has it
                at = position
            position = after(decode(text, position)[1])
            number += 1
    return text.count("\n", 0, at) + 1


def contradictions(records: Sequence[Record], name: Callable[..., str] = "{optimizer}".format) -> Iterator[Finding]:
    """Finds what each line of results contradicts in the header or in a line before it.

    Args:
        records: The lines.
        name: Says what a record is about; no two of a kind may be about the same.
    """
    settings, lines, first = records[0]["settings"], {}, None
    for number, record in enumerate(records[1:], 2):
        if record["optimizer"] not in settings["optimizers"]:
            yield Finding(number, f"{record['optimizer']!r} is none of the run's optimizers")
        key = (record["record"], name(**record))
        if key in lines:
            yield Finding(number, f"the {key[0]} of {key[1]} stands on line {lines[key]} already")
        lines[key] = number
        if record["record"] != "training":
            continue
        first = first or record
        steps = record["steps"]
        if steps[0] != 0 or steps[-1] != settings["steps"] or steps != sorted(set(steps)):
            yield Finding(number, f"steps do not go from 0 to {settings['steps']}")
        curves = {key: record[key] for key in ("train_loss", "worst", "consensus", "exchanges") if key in record}
        curves |= {f"sent.{kind}": curve for kind, curve in record.get("sent", {}).items()}
        curves |= {f"validation.{metric}": curve for metric, curve in record["validation"].items()}
        for curve, values in curves.items():
            if len(values) != len(steps):
                yield Finding(number, f"{curve} has {len(values)} values, not one for each of {len(steps)} steps")
        for split in ("validation", "test"):
            if record[split].keys() != first[split].keys():
                yield Finding(number, f"{split} has other metrics than that of the first training")


def _contradictions_of_comparison(records: Sequence[Record]) -> Iterator[Finding]:
    settings = records[0]["settings"]
    yield from contradictions(records, _name_in_comparison)
    trained, ends = {}, {}
    for number, record in enumerate(records[1:], 2):
        if record["record"] == "optimizer":
            continue
        optimizer, round_number = unit = record["optimizer"], record["round"]
        if round_number >= settings["rounds"]:
            yield Finding(number, f"round {round_number} of {settings['rounds']}, counted from 0")
        for seed in record.get("seeds", [record.get("seed")]):
            if seed not in settings["seeds"]:
                yield Finding(number, f"{seed} is none of the run's seeds")
        if record["record"] == "training":
            point = record["learning_rate"], *record["tuned"].values()
            trained.setdefault(unit, {}).setdefault(record["seed"], set()).add(point)
            continue
        ends.setdefault(unit, number)
        points = [trained.get(unit, {}).get(seed, set()) for seed in record["seeds"]]
        if any(tried != points[0] or len(tried) != settings["rates"] for tried in points):
            words = f"round {round_number} of {optimizer} has not {settings['rates']} trainings with each of its seeds"
            yield Finding(number, f"{words}, with equal hyperparameters")
        if round_number and (optimizer, round_number - 1) not in ends:
            yield Finding(number, f"{optimizer} has a round {round_number} without a round {round_number - 1}")


def _name_in_comparison(**record):
    if record["record"] == "optimizer":
        return record["optimizer"]
    words = f"{record['optimizer']} in round {record['round']}"
    if record["record"] == "round":
        return f"{words} with seeds {record['seeds']}"
    point = ", ".join(map(repr, (record["learning_rate"], *record["tuned"].values())))
    return f"{words} at learning rate {point} with seed {record['seed']}"


COMPARISON = Kind("compare", _COMPARISON, _contradictions_of_comparison)
