"""POST /api/tasks/<task>: enqueue from programs in any language (docs/other-languages.md).

check the request -> find the task -> read the body -> convert the arguments -> enqueue -> answer
"""

from __future__ import annotations

import difflib
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple, get_args

from flask import Response, abort, jsonify

from werk.client import enqueue as client
from werk.client.options import DURATIONS, HINTS, Options, misplaced
from werk.errors import ArgumentError
from werk.printable import listed
from werk.store.connection import Link
from werk.tasks.catalog_page import Entry
from werk.tasks.types import Invalid, Type, shown_word
from werk.web.body import ONE_BODY, json_object, received


class Call(NamedTuple):
    """What the body of a request asks for; its fields are the members of the object."""

    args: Sequence[object] = ()
    kwargs: Mapping[str, object] = {}
    options: Mapping[str, object] = {}


def answer(link: Link, task: str) -> tuple[Response, int]:
    """Enqueue the job that the request asks for. Raises HTTPException, WerkError."""
    body, entry = received(), client.find(task, link)
    with ONE_BODY:
        job = _prepared(entry, body)
    [handle] = client.send([job], link)
    return jsonify(handle.as_json()), 200 if handle.duplicate else 201


def _prepared(entry: Entry, body: bytes) -> client.PreparedJob:
    """Return the job that a body asks for. Raises HTTPException, ArgumentError."""
    secret = entry.task.secret
    call = _read(body, is_secret=bool(secret))
    try:
        args, kwargs = entry.shape.bind_json(call.args, call.kwargs, entry.name, secret)
    except ArgumentError as error:
        if not (names := misplaced(call.kwargs, entry.shape)):
            raise
        raise ArgumentError(f'{error}; put {listed(names)} into "options"') from None
    options = Options(**{name: _option(name, value) for name, value in call.options.items()})
    return client.prepare(entry, args, kwargs, options)


def _read(body: bytes, is_secret: bool) -> Call:
    """Return the call in a body; aborts with 400 if there is none."""
    members = " with args, kwargs and options, each optional"
    facts = json_object(body, members, is_secret)
    _check_names(facts, Call._fields, "the body")
    call = Call(**facts)
    for name, value in facts.items():
        wanted, what = (list, "an array") if name == "args" else (dict, "an object")
        if type(value) is not wanted:
            abort(400, f"{name} must be {what}, got {type(value).__name__}")
    _check_names(call.options, HINTS, "options")
    return call


def _check_names(given: Mapping[str, object], known: Collection[str], where: str) -> None:
    """Abort with 400 if an object has members that are unknown."""
    unknown = [shown_word(name) for name in given if name not in known]
    if unknown:
        near = difflib.get_close_matches(unknown[0], known, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(known)}"
        abort(400, f"unknown in {where}: {listed(unknown)}; {hint}")


def _option(name: str, value: object) -> Any:
    """Return an option's value in JSON as Options has it. Raises ArgumentError."""
    kinds, _ = get_args(HINTS[name])
    kind = (get_args(kinds) or (kinds,))[0]  # of `str | None`: str
    if value is None and kind is not kinds:
        return None
    if name in DURATIONS:
        return value  # checked by Options, as in Python
    try:
        return Type(kind.__name__).check(value, is_json=True)
    except Invalid as error:
        raise ArgumentError(f"{name}: {' '.join(error.args)}") from None
