"""Which errors count as the same one: those that differ only in numbers.

An order's number varies from job to job. The status code of an HTTP response does not: "status 400"
and "status 500" are different errors.
"""

from __future__ import annotations

import re

_PHRASES = """
    Client|Server|Bad|Unauthorized|Payment|Forbidden|Not|Method|Proxy|Request|Conflict|Gone|Length
    |Precondition|Payload|Content|URI|Unsupported|Unprocessable|Locked|Too|Internal|Service|Gateway
"""
_VARIES = re.compile(
    rf"""
    (?P<code>
        # status 400, status_code=400, "statusCode": 400, HTTP 503, HTTP/1.1 503, HTTP Error 503
        \b(?:https?(?:/[0-9](?:\.[0-9])?)?|status|code)(?!://)
        (?:[\W_]|code|error|status){{1,12}}?
        [1-5][0-9]{{2}}(?![\w.-]*[0-9])
        # 404 Client Error, '404 Not Found', 503, message='Service Unavailable'
        | \b[1-5][0-9]{{2}}(?=[ ]?[:,-]?[ ](?-i:(?:{"".join(_PHRASES.split())})\b|message=))
    )
    | 0x[0-9a-f]+
    | [0-9a-f]{{8}}-[0-9a-f]{{4}}-[0-9a-f-]{{22,27}}
    | \d+
    """,
    re.VERBOSE | re.IGNORECASE,
)


def group_of(error: str) -> str:
    """Return an error (the last line of a traceback) with # for each number that may vary."""
    return _VARIES.sub(lambda found: found["code"] or "#", error)


def is_like(error: str, wanted: str, exact: bool) -> bool:
    r"""Return whether an error equals the wanted one, or begins with it if that ends with *.

    A wanted error that ends with \* ends with an asterisk. With `exact`, all digits count.
    """
    is_whole = not wanted.endswith("*") or wanted.endswith(r"\*")
    text = f"{wanted[:-2]}*" if wanted.endswith(r"\*") else wanted.removesuffix("*")
    if not exact:
        error, text = group_of(error), group_of(text)
    return error == text if is_whole else error.startswith(text)


def filter_of(error: str) -> str:
    """Return what to look for with is_like() to find this error and no other."""
    return rf"{error[:-1]}\*" if error.endswith("*") else error
