"""Prepare a job from a call of a task: check the call, and collect what enqueue.lua needs."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from typing import NamedTuple, TypeGuard

from werk.client.options import NO_OPTIONS, Options, misplaced
from werk.duration import Duration
from werk.errors import ArgumentError
from werk.registry import Task
from werk.store import keys
from werk.store.limits import DESCRIPTION_LENGTH
from werk.store.payload import dumps, write_call
from werk.store.plain import name_of
from werk.tasks.arguments import Signature
from werk.tasks.catalog_page import Entry


class PreparedJob(NamedTuple):
    """A job that is about to be enqueued: checked, and not sent yet."""

    id: str
    data: bytes
    description: str
    hold: str  # a key that the job takes: until it expires, no other job can take it
    pointer: str  # a key that names a job: while it is active, no other job can take the key
    meta: str | bytes  # RQ's meta: plain data, pickled; '' for none
    name: str
    task: Task  # with the options of this job
    fingerprint: str
    call: str  # as text, with secrets masked
    created_at: str
    options: Options
    due: float | None  # Unix time by this host's clock, if the job is scheduled
    ttl: Duration  # EnqueueRequest.ttl
    warning: str  # of the task (catalog_page.Entry)
    rare: tuple[str | bytes, ...] = ()  # fields that few jobs have (Options.fields)


def prepare(
    entry: Entry,
    args: Sequence[object],
    kwargs: Mapping[str, object],
    options: Options = NO_OPTIONS,
    now: float | None = None,
) -> PreparedJob:
    """Return the job that a call of a task becomes. Raises ArgumentError."""
    name, task, shape, fingerprint, warning = entry
    if options != NO_OPTIONS:
        options = options.in_seconds()
        task = options.treated(task)
    try:
        bound, named = shape.bind(args, kwargs, task=name, secret=task.secret)
    except ArgumentError as error:
        raise _hinted(error, misplaced(kwargs, shape)) from None
    now = now or time.time()
    due, hold, pointer = None, "", ""
    ttl: Duration = 0
    meta: str | bytes = ""
    rare: tuple[str | bytes, ...] = ()
    if options != NO_OPTIONS:
        due = options.due(now)
        ttl = options.ttl_s()
        in_one_form = _in_one_form(shape, bound, named)
        hold, pointer = options.guards(name, in_one_form, task.queue)
        rare = options.fields(name, in_one_form)
        meta = dumps(options.meta) if options.meta else ""
    call = f"{name}({shape.call(bound, named, task.secret)})"
    data = write_call(task.path, bound, named)
    job_id = options.job_id or _new_id()
    shown, created_at = call[:DESCRIPTION_LENGTH], keys.iso(now)
    sent = (job_id, data, shown, hold, pointer, meta)
    seen = (fingerprint, call, created_at)
    return PreparedJob(*sent, name, task, *seen, options, due, ttl, warning, rare)


def checked_call(args: object, kwargs: object) -> tuple[Sequence[object], Mapping[str, object]]:
    """Return the arguments in order, and the named ones. Raises ArgumentError."""
    if not is_in_order(args):
        use = "use a tuple of arguments, (value,), and kwargs for a dict of named ones"
        raise ArgumentError(f"args: got {name_of(type(args))}; {use}")
    named = {} if kwargs is None else kwargs
    if not isinstance(named, Mapping):
        raise ArgumentError(f"kwargs: got {name_of(type(kwargs))}; use a dict of named arguments")
    return args, named


def in_two(call: object) -> tuple[Sequence[object], Mapping[str, object]]:
    """Return the arguments in order, and the named ones, of a call. Raises ArgumentError."""
    if type(call) is tuple or type(call) is list:
        return call, {}
    if isinstance(call, Mapping):
        return (), call
    if is_in_order(call):
        return call, {}
    use = "use a tuple of arguments, (value,), or a dict of named ones"
    raise ArgumentError(f"got {name_of(type(call))}; {use}")


def is_in_order(call: object) -> TypeGuard[Sequence[object]]:
    """Return whether the arguments of a call are in a sequence: not a text, dict or iterator."""
    return isinstance(call, Sequence) and not isinstance(call, (str, bytes, bytearray, memoryview))


def _in_one_form(
    shape: Signature, args: Sequence[object], kwargs: Mapping[str, object]
) -> list[tuple[str, object]]:
    """Return a bound call as names and values (Signature.named), and other calls differently.

    In f(*args, **kwargs), `args` may also be the name of a further argument. Then it gets a `=`.
    """
    taken = {
        own.name
        for at, own in enumerate(shape.parameters)
        if own.kind == "var_positional" or (own.positional_only and at >= len(args))
    }
    further = {name: f"{name}=" for name in kwargs if name.rstrip("=") in taken}
    return shape.named(args, {further.get(name, name): value for name, value in kwargs.items()})


def _hinted(error: ArgumentError, names: Sequence[str]) -> ArgumentError:
    """Return the error of a call, with a hint for the arguments that are options."""
    if not names:
        return error
    what = " and ".join(names) + (" are options" if len(names) > 1 else " is an option")
    given = ", ".join(f"{name}=..." for name in names)
    return ArgumentError(f"{error}; {what}: options=werk.Options({given})")


def _new_id() -> str:
    """Return an id like RQ's: str(uuid4()) would take 5 % of an enqueue."""
    digits = os.urandom(16).hex()
    variant = "89ab"[int(digits[16], 16) & 3]
    return f"{digits[:8]}-{digits[8:12]}-4{digits[13:16]}-{variant}{digits[17:20]}-{digits[20:]}"
