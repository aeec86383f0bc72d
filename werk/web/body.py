"""The JSON in the body of a request."""

from __future__ import annotations

import threading
from typing import Any

from flask import abort, request

from werk.tasks.types import Invalid, read_json
from werk.web.http_server import LONGEST_BODY, TOO_LONG

ONE_BODY = threading.Lock()  # while it is read, a body takes many times its size in memory


def received() -> bytes:
    """Return the body of this request; aborts with 415 or 413 if it is not JSON, or too long."""
    # A page of another site can send this type only after a preflight, which allows nothing.
    if request.mimetype != "application/json":
        abort(415, f"Content-Type must be application/json, got {request.mimetype[:100]!r}")
    if (request.content_length or 0) > LONGEST_BODY:
        abort(413, TOO_LONG)
    return request.get_data()


def json_object(body: bytes, members: str = "", is_secret: bool = False) -> dict[str, Any]:
    """Return the object in a body; aborts with 400 if there is none."""
    try:
        facts: Any = read_json(body.decode())
    except UnicodeDecodeError:
        abort(400, "the body is not valid UTF-8")
    except Invalid as error:
        shown, problem = error.args
        abort(400, f"{'the body' if is_secret else shown} {problem}")
    if type(facts) is not dict:
        abort(400, f"the body must be a JSON object{members}")
    return facts
