"""What the JSON of a results folder must look like: the format that benches/README.md describes, checked when it is written and
when it is read."""

from __future__ import annotations

from typing import Any

VERSION = 1

# An object is written as a dict: a name with "?" may be left out, `...` allows others. A list holds values of one kind, a tuple
# names several kinds, MANY stands for any name.
MANY = "*"
NUMBER = (int, float)
SPREAD = {"min": NUMBER, "median": NUMBER, "max": NUMBER}

MACHINE = {
    "name": str,
    "processor": str,
    "cores": int,
    "memory_bytes": int,
    "kernel": str,
    "system": str,
    "disk": {"filesystem": str, ...: object},
    "load": [NUMBER],
    "versions": {MANY: str},
    "commit": str,
    "builds?": {MANY: str},
    "run?": {"scale": str, "rounds": int, "threads": int, "workloads": [str]},
}

TARGET = {
    "what": str,
    "reached": (*NUMBER, None),
    "least": (*NUMBER, None),
    "most": (*NUMBER, None),
    "met": (bool, None),
}

RUN = {
    "contender": str,
    "case": str,
    "round": int,
    "value?": NUMBER,
    "seconds?": NUMBER,
    "cpu_seconds?": NUMBER,
    "peak_rss_bytes?": int,
    "first_batch_seconds?": NUMBER,
    "error?": str,
    "left_out?": str,
    ...: object,
}

ROW = {
    "case": str,
    "contender": str,
    "unit": str,
    "runs": int,
    "errors": [str],
    "left_out?": str,
    "min?": NUMBER,
    "median?": NUMBER,
    "max?": NUMBER,
    "cpu_seconds_per_unit?": (*NUMBER, None),
    "peak_rss_bytes?": (int, None),
    "first_batch_seconds?": SPREAD,
}

CURVE = {
    "title": str,
    "x": str,
    "y": str,
    "lines": {MANY: [{"x": NUMBER, **SPREAD}]},
    "failed": {MANY: str},
}

HEAD = {"schema": int, "workload": str, "title": str, "small": bool, "wall_seconds": NUMBER, "rounds?": int}

WORKLOAD = {
    **HEAD,
    "partial?": str,
    "conditions": str,
    "page_cache?": str,
    "settings": {...: object},
    "commands": {MANY: [str]},
    "unit": str,
    "better?": str,
    "runs": [RUN],
    "rows": [ROW],
    "targets": [TARGET],
    "limits?": {MANY: str},
    "tiers?": {MANY: str},
    "curves?": [CURVE],
    "series?": {MANY: ([NUMBER], None)},
}

FAILED = {**HEAD, "failed": str, "targets": [TARGET]}


class Invalid(Exception):
    """Results that are not in this format."""


def check_machine(content: Any, where: str) -> None:
    """Raises Invalid, naming the first entry that isn't as described."""
    _check(content, MACHINE, where)


def check_workload(content: Any, where: str) -> None:
    """Raises Invalid, naming the first entry that isn't as described."""
    if isinstance(content, dict) and content.get("schema") != VERSION:
        raise Invalid(f"{where}: schema {content.get('schema')!r}, and this harness reads {VERSION}")
    _check(content, FAILED if isinstance(content, dict) and "failed" in content else WORKLOAD, where)
    for at, run in enumerate(content.get("runs", [])):
        if len({"value", "error", "left_out"} & run.keys()) != 1:
            raise Invalid(f"{where}: runs[{at}] has to have one of value, error and left_out")
    for at, row in enumerate(content.get("rows", [])):
        figures = len({"min", "median", "max"} & row.keys())
        if figures != (3 if row["runs"] else 0):
            raise Invalid(f"{where}: rows[{at}] has {row['runs']} runs and {figures} of min, median and max")
    if content.get("better", "more") not in ("more", "less"):
        raise Invalid(f"{where}: better is {content['better']!r}, and has to be 'more' or 'less'")


def _check(value: Any, kind: Any, where: str) -> None:
    if isinstance(kind, tuple):
        for one in kind:
            try:
                return _check(value, one, where)
            except Invalid:
                continue
        raise Invalid(f"{where}: {_shown(value)} is none of {', '.join(map(_named, kind))}")
    if isinstance(kind, dict):
        _is(value, dict, where)
        return _check_object(value, kind, where)
    if isinstance(kind, list):
        _is(value, list, where)
        for at, item in enumerate(value):
            _check(item, kind[0], f"{where}[{at}]")
        return None
    if kind is None:
        if value is not None:
            raise Invalid(f"{where}: {_shown(value)} is not null")
        return None
    return _is(value, kind, where)


def _check_object(value: dict[str, Any], kind: dict[Any, Any], where: str) -> None:
    named = {name.removesuffix("?"): inner for name, inner in kind.items() if isinstance(name, str) and name != MANY}
    for name in kind:
        if isinstance(name, str) and name != MANY and not name.endswith("?") and name not in value:
            raise Invalid(f"{where}: no {name!r}")
    for name, inner in value.items():
        if name in named:
            _check(inner, named[name], f"{where}: {name}")
        elif MANY in kind:
            _check(inner, kind[MANY], f"{where}: {name}")
        elif ... not in kind:
            raise Invalid(f"{where}: {name!r} is not described")


def _is(value: Any, kind: Any, where: str) -> None:
    # In Python, a bool is an int; in JSON it isn't.
    if not isinstance(value, kind) or (isinstance(value, bool) and kind in (int, float)):
        raise Invalid(f"{where}: {_shown(value)} is no {_named(kind)}")
    if isinstance(value, float) and value - value != 0:
        raise Invalid(f"{where}: {value} is no number that JSON has")


def _named(kind: Any) -> str:
    names = {dict: "object", list: "list", str: "text", int: "integer", float: "number", bool: "boolean", None: "null"}
    return "list" if isinstance(kind, list) else "object" if isinstance(kind, dict) else names[kind]


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) < 60 else f"{text[:60]} …"
