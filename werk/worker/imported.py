"""What workers import, compared with what callers read from the source (tasks/signature.py).

A decorator can change the parameters of a function. The horse finds out when it imports a task; the
supervisor publishes it in place of the written parameters (catalog.adopt).
"""

from __future__ import annotations

import importlib
import inspect
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from inspect import Parameter as Kind
from types import TracebackType
from typing import Any

from rq.timeouts import JobTimeoutException
from rq.utils import import_attribute

from werk.tasks import signature
from werk.tasks.arguments import Parameter, Signature
from werk.tasks.types import JSON

_MACHINERY = ("werk.worker.", "rq.", "importlib")  # and importlib._bootstrap
_ANYTHING = [Kind.VAR_POSITIONAL, Kind.VAR_KEYWORD]
_HOW: dict[str, Any] = {"follow_wrapped": False}
if sys.version_info >= (3, 14):  # a name that only type checkers import is not an error
    from annotationlib import Format

    _HOW["annotation_format"] = Format.FORWARDREF


def fix_search_path() -> None:
    """Make sys.path absolute: a task may change the current folder, and then others are imported.

    An entry that is no file is left as it is: it may be the name of an editable install.
    """
    with suppress(FileNotFoundError):  # the current folder was deleted: there is nothing to import
        for at, entry in enumerate(sys.path):
            if not os.path.isabs(entry) and os.path.exists(entry or os.curdir):
                sys.path[at] = os.path.abspath(entry)


def import_function(path: str) -> Callable[..., Any]:
    """Return a function by its path, as RQ does; but raise what its module raised.

    RQ takes an import that fails in the module for a module that is not there.
    """
    try:
        function: Callable[..., Any] = import_attribute(path)
    except ValueError as error:
        missing = error
    else:
        return function
    parts = path.split(".")
    for end in range(1, len(parts)):
        importlib.import_module(".".join(parts[:end]))
    raise missing


def user_frames(error: BaseException) -> TracebackType | None:
    """Return the traceback of a failed import from the first frame of the imported modules on."""
    trace = error.__traceback__
    while trace and trace.tb_frame.f_globals.get("__name__", "").startswith(_MACHINERY):
        trace = trace.tb_next
    return trace


def other_signature(path: str, function: Callable[..., Any]) -> Signature | None:
    """Return the signature of an imported function if it is not as written; None if it is.

    It is that of the outermost layer which does not take *args, **kwargs. A parameter that is
    written has its type.
    """
    written = signature.read(path)
    if written.notes and written.notes[0].kind in ("module", "function", "unread", "unreachable"):
        return None
    try:
        found = _parameters(function)
    except JobTimeoutException:
        raise
    except Exception:  # what stands in __wrapped__ or __signature__ can raise anything
        return None
    known = {own.name: own for own in written.parameters}
    parameters = tuple(_parameter(own, known.get(own.name)) for own in found)
    is_same = parameters == written.parameters or [own.kind for own in found] == _ANYTHING
    if is_same:
        return None
    return Signature(parameters, written.summary, returns=written.returns)


def _parameters(function: Any) -> list[Kind]:
    is_bound = inspect.ismethod(function)
    layer = inspect.unwrap(function.__func__ if is_bound else function, stop=_is_definite)
    return [*inspect.signature(layer, **_HOW).parameters.values()][is_bound:]


def _is_definite(layer: Any) -> bool:
    """Return whether a layer takes parameters of its own, and does not only pass them on."""
    try:
        own = inspect.signature(layer, **_HOW).parameters.values()
    except (TypeError, ValueError):  # one in C, such as that of functools.cache
        return False
    return [each.kind for each in own] != _ANYTHING


def _parameter(own: Kind, written: Parameter | None) -> Parameter:
    kind = own.kind.name.lower().partition("_o")[0]  # without _only, _or_keyword
    is_required = own.default is Kind.empty and kind in ("positional", "keyword")
    default = written.default if written and not is_required else None
    is_nameless = own.kind is Kind.POSITIONAL_ONLY
    return Parameter(
        own.name, kind, written.type if written else JSON, is_required, default, is_nameless
    )
