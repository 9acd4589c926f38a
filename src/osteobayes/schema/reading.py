"""Reading YAML safely, with line numbers, and turning what is wrong into problems."""

import difflib
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from osteobayes.errors import Problem

Key = tuple[str | int, ...]


MANY = 40
"""Words that a sentence lists, at most; of more the nearest few."""


def did_you_mean(word: str, words: Iterable[str]) -> str:
    """Sentence that suggests the nearest of `words`, or lists them."""
    words = list(words)
    lowered = {known.lower(): known for known in words}
    near = difflib.get_close_matches(str(word).lower(), lowered, n=1, cutoff=0.6)
    if near:
        return f"did you mean {lowered[near[0]]!r}?"
    if len(words) > MANY:
        nearest = difflib.get_close_matches(str(word).lower(), lowered, n=8, cutoff=0.0)
        return f"use one of {len(words)}, such as {', '.join(lowered[w] for w in nearest)}"
    return f"use one of: {', '.join(words)}" if words else "none exists"


@dataclass(frozen=True)
class YamlDocument:
    """What a YAML file holds, the line of every key, and what is wrong with it."""

    file: str
    data: Any
    lines: dict[Key, int] = field(default_factory=dict)
    problems: tuple[Problem, ...] = ()

    def line(self, key: Key) -> int | None:
        """Line of `key`, or of the nearest thing that encloses it."""
        for length in range(len(key), -1, -1):
            if key[:length] in self.lines:
                return self.lines[key[:length]]
        return None

    def problem(self, key: Key, message: str, mend: str = "") -> Problem:
        """Problem at `key` of this document."""
        return Problem(self.file, self.line(key), field_name(key), message, mend)


def field_name(key: Key) -> str:
    """Write a key path the way a person would: ``arms[0].mix[1].weight``."""
    text = ""
    for part in key:
        text += f"[{part}]" if isinstance(part, int) else (f".{part}" if text else str(part))
    return text


LARGEST = 16 * 2**20
"""Bytes of a YAML file at most."""

_Base: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""libyaml's parser where PyYAML was built with it: ten times as fast as its own."""


class _Loader(_Base):
    """PyYAML's safe loader without surprises.

    `1e-3` is a number; only `true` and `false` are truth values; `1:1`, `0210` and `2004-05-06` are words, not numbers
    in base 60 or 8 and dates; nothing is merged.
    """


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag.endswith(":null")]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver("tag:yaml.org,2002:int", re.compile(r"^[-+]?(?:0|[1-9][0-9]*)$"), list("-+0123456789"))
_Loader.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile(r"^(?:true|True|false|False)$"), list("tTfF"))
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(?:(?:[0-9]+\.[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?|[0-9]+[eE][-+]?[0-9]+|\.(?:inf|nan))$"),
    list("-+0123456789."),
)


def read_yaml(path: Path | str, file: str | None = None) -> YamlDocument:
    """Read a YAML file with the safe loader.

    Parameters
    ----------
    path
        The file.
    file
        How problems name the file; the path if not given.

    Returns
    -------
    YamlDocument
        ``data`` is `None` when the file cannot be read; ``problems`` then says why. Duplicate keys and aliases are
        problems, not surprises.
    """
    path = Path(path)
    file = path.as_posix() if file is None else file
    try:
        if (size := path.stat().st_size) > LARGEST:
            message = f"the file has {size / 2**20:.0f} MiB, {LARGEST / 2**20:.0f} are allowed"
            return YamlDocument(file, None, problems=(Problem(file, None, "", message, "split it"),))
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        return YamlDocument(file, None, problems=(Problem(file, None, "", "the file is missing", "write it"),))
    except (OSError, UnicodeDecodeError) as error:
        problem = Problem(file, None, "", f"the file cannot be read ({error})", "save it as UTF-8 text")
        return YamlDocument(file, None, problems=(problem,))
    if unprintable := yaml.reader.Reader.NON_PRINTABLE.search(text):
        row = text.count("\n", 0, unprintable.start()) + 1
        problem = Problem(file, row, "", f"the file holds the control character {unprintable[0]!r}", "remove it")
        return YamlDocument(file, None, problems=(problem,))
    lines: dict[Key, int] = {}
    problems: list[Problem] = []
    loader = None
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        if node is not None:
            _walk(node, (), lines, problems, file, set())
        data = None if node is None or problems else loader.construct_document(node)
    # explicit tags (`!!int x`) raise whatever their constructor stumbles over
    except (yaml.YAMLError, ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        reason = getattr(error, "problem", None) or " ".join(str(error).split())
        if reason.startswith("but "):  # the first half of the sentence is in the context
            reason = f"{getattr(error, 'context', '')}, {reason}"
        row = None if mark is None else mark.line + 1
        problem = Problem(
            file, row, "", f"not valid YAML: {reason}", "mend the syntax (indent with spaces, close quotes)"
        )
        return YamlDocument(file, None, problems=(problem,))
    finally:
        if loader is not None:
            loader.dispose()
    if node is None:
        problems.append(Problem(file, None, "", "the file is empty", "write it"))
    return YamlDocument(file, data, lines, tuple(problems))


def _walk(node: yaml.Node, key: Key, lines: dict[Key, int], problems: list[Problem], file: str, seen: set[int]) -> None:
    """Note the line of every key below `node`, and complain of duplicate keys and aliases."""
    lines.setdefault(key, node.start_mark.line + 1)
    if id(node) in seen:
        problems.append(
            Problem(file, lines[key], field_name(key), "YAML aliases are not allowed", "write the value out")
        )
        return
    seen.add(id(node))
    if isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            _walk(item, (*key, index), lines, problems, file, seen)
    elif isinstance(node, yaml.MappingNode):
        first: dict[str, int] = {}
        for name, value in node.value:
            row = name.start_mark.line + 1
            if not isinstance(name, yaml.ScalarNode):
                message = "a key is a list or a mapping, not a word"
                problems.append(Problem(file, row, field_name(key), message, "write `key: value`"))
                continue
            inner = (*key, str(name.value))
            if name.value in first:
                message = f"the key {name.value!r} is already on line {first[name.value]}"
                problems.append(Problem(file, row, field_name(inner), message, "keep one of the two"))
                continue
            first[name.value] = row
            lines[inner] = row
            _walk(value, inner, lines, problems, file, seen)


def problems_of(error: ValidationError, document: YamlDocument, model: type[BaseModel]) -> list[Problem]:
    """Turn a pydantic error about `document` into problems with line, key and suggestion."""
    details = _one_each([dict(detail) for detail in error.errors(include_url=False)], document)
    problems = [_problem_of(detail, document, model) for detail in details]
    # a misspelt key is also a missing one: say it once
    meant = {
        (detail["loc"][:-1], problem.mend)
        for detail, problem in zip(details, problems, strict=True)
        if detail["type"] == "extra_forbidden"
    }
    return [
        problem
        for detail, problem in zip(details, problems, strict=True)
        if detail["type"] != "missing" or (detail["loc"][:-1], f"did you mean {detail['loc'][-1]!r}?") not in meant
    ]


_WANTED = {
    "string_type": "a text", "float_type": "a number", "int_type": "a whole number", "bool_type": "true or false",
    "list_type": "a list", "dict_type": "keys", "model_type": "keys",
}  # fmt: skip
_FORMS = {
    "doi": ("a DOI", "write it as 10.1000/182, without https://doi.org/"),
    "registry": ("a registry number", "write NCT and eight digits"),
    "pmid": ("a PubMed id", "write the digits alone"),
}
_ID = ("an id", "use lower-case letters, digits and underscores, a letter first")


def _one_each(details: list[dict[str, Any]], document: YamlDocument) -> list[dict[str, Any]]:
    """Details without the tags of unions; of a value that no member of a union takes, one detail."""
    found: dict[tuple[Any, ...], dict[str, Any]] = {}
    for detail in details:
        loc, kind = detail["loc"], detail["type"]
        tagged = len(loc) > 1 and loc not in document.lines and loc[:-1] in document.lines
        if not tagged or kind in ("missing", "extra_forbidden"):
            found[(*loc, kind, len(found))] = detail
            continue
        other = found.setdefault(loc[:-1], detail | {"loc": loc[:-1], "wanted": []})
        other["wanted"].append(_WANTED.get(kind, ""))
        if kind == "string_pattern_mismatch":
            other |= {"type": kind}
    return list(found.values())


def _wrong_type(kind: str, value: Any, wanted: list[str]) -> tuple[str, str]:
    """Message and mend for a value of another type."""
    is_one = isinstance(value, str | int | float | bool)
    message = f"{' or '.join(wanted)} {'are' if wanted == ['keys'] else 'is'} wanted here"
    if isinstance(value, dict | list):
        message += ", not keys" if isinstance(value, dict) else ", not a list"
    elif not is_one:
        message += ", not nothing"
    else:
        message += f"{', not one value' if wanted == ['keys'] else ''} (it is {value!r})"
    if kind == "list_type":
        return message, "begin every item with `- `"
    if kind in ("dict_type", "model_type"):
        return message, "write `key: value`"
    if kind == "string_type":
        return message, "put quotes around it" if is_one else "write one text"
    return message, "correct the value"


def _problem_of(detail: Any, document: YamlDocument, model: type[BaseModel]) -> Problem:
    key = _key(detail["loc"], document)
    kind, value = detail["type"], detail.get("input")
    name = detail["loc"][-1] if detail["loc"] else ""
    if kind == "extra_forbidden":
        owner = _model_at(model, detail["loc"][:-1])
        known = list(owner.model_fields) if owner else []
        return document.problem(key, f"there is no key {name!r} here", did_you_mean(str(name), known))
    if kind == "invalid_key":
        return document.problem(key, f"the key {value!r} is not a word", "put quotes around it, or remove it")
    if kind == "missing":
        return document.problem(key, f"the key {name!r} is missing", f"add {name!r}")
    if kind == "literal_error":
        words = re.findall(r"'([^']*)'", detail["ctx"]["expected"])
        if not words:
            return document.problem(key, f"{value!r} is not allowed here", f"write {detail['ctx']['expected']}")
        return document.problem(key, f"{value!r} is not a word that is allowed here", did_you_mean(str(value), words))
    if kind == "string_pattern_mismatch":
        what, mend = _FORMS.get(str(name), _ID)
        return document.problem(key, f"{value!r} does not follow the pattern of {what}", mend)
    if kind in _WANTED:
        return document.problem(key, *_wrong_type(kind, value, detail.get("wanted") or [_WANTED[kind]]))
    text = detail["msg"].removeprefix("Value error, ")
    message, _, mend = text.partition("; ")
    shown = f" (it is {value!r})" if isinstance(value, str | int | float | bool) and not mend else ""
    return document.problem(key, message[:1].lower() + message[1:] + shown, mend or "correct the value")


def _key(loc: Key, document: YamlDocument) -> Key:
    """Pydantic's location as a key of the file: without the tags of unions, every key of a mapping a text."""
    key: Key = ()
    for i, part in enumerate(loc):
        if (*key, part) not in document.lines and (*key, str(part)) in document.lines:
            key = (*key, str(part))
        elif isinstance(part, int) or (*key, part) in document.lines or (i == len(loc) - 1 and part != "[key]"):
            key = (*key, part)
    return key


def _model_at(model: type[BaseModel], loc: Key) -> type[BaseModel] | None:
    """Model that describes the mapping at `loc`."""
    current: Any = model
    for part in loc:
        if isinstance(part, str) and isinstance(current, type) and part in current.model_fields:
            current = _inner_model(current.model_fields[part].annotation)
            if current is None:
                return None
    return current


def _inner_model(annotation: Any) -> type[BaseModel] | None:
    """First pydantic model inside an annotation such as ``list[Arm] | None``."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for inner in getattr(annotation, "__args__", ()):
        found = _inner_model(inner)
        if found is not None:
            return found
    return None


def read_model[M: BaseModel](
    model: type[M], path: Path | str, file: str | None = None
) -> tuple[M | None, YamlDocument, list[Problem]]:
    """Read a YAML file into a pydantic model.

    Returns
    -------
    tuple
        The model (`None` if it could not be made), the document it came from, and every problem found.
    """
    document = read_yaml(path, file)
    if document.problems:
        return None, document, list(document.problems)
    if not isinstance(document.data, dict):
        return None, document, [Problem(document.file, 1, "", "the file is not a list of keys", "write `key: value`")]
    try:
        return model.model_validate(document.data), document, []
    except ValidationError as error:
        return None, document, problems_of(error, document, model)
