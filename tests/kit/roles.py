"""The users of docs/security.md, and which of them a process of a test is.

The server of the run has these users, by their lines in that page. Each process that a test starts
is the user of its role, and what a test enqueues by itself it enqueues as a caller. So the tests of
a command test its role: what a line lacks fails the test that needs it. The default user is for the
connections by which a test looks at Redis, and for commands without a role (`werk up`, `rq info`).
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from hashlib import sha256
from pathlib import Path

import redis

from werk.settings import Settings

PAGE = (Path(__file__).parents[2] / "docs" / "security.md").read_text()
LINES = {name: line for line, name in re.findall(r"^(user werk-(\w+) on #.*)$", PAGE, re.MULTILINE)}
BUDGET_S = 10.0  # of a reader: a busy machine may stop Redis for seconds
OLDEST = (7, 0)  # before it, no key may be given for reading only

ROLES = {
    "caller": ("enqueue", "result", "cron"),
    "reader": ("status", "show", "failed", "jobs", "tasks"),
    "operator": (
        *("ping", "retry", "requeue", "stop", "cancel", "discard", "pause", "resume", "drain"),
        "dashboard",
    ),
    "worker": ("worker", "worker-pool"),
    "admin": ("repair",),
}
_ROLE_OF = {command: role for role, commands in ROLES.items() for command in commands}
_USER = re.compile(r"(?<=://)werk-\w+:\w+@")


def line(role: str) -> str:
    """Return the line of the page, with the digest of this user's password in it."""
    digest = sha256(password(role).encode()).hexdigest()
    return re.sub(r"#[A-Z0-9-]+", f"#{digest}", LINES[role], count=1)


def password(role: str) -> str:
    return f"{role}s"


def url(address: str, role: str | None) -> str:
    """Return the address of a server for a role; with None, for the default user."""
    plain = _USER.sub("", address)
    return plain.replace("://", f"://werk-{role}:{password(role)}@", 1) if role else plain


def role_of(words: Sequence[object]) -> str | None:
    """Return the role of a command line, None if it has none."""
    name, *rest = [Path(str(words[0])).name, *map(str, words[1:]), ""]
    if name == "werk-enqueue":
        return "caller"
    if name not in ("werk", "rq"):
        return None
    role = _ROLE_OF.get(rest[0])
    if name == "rq":
        return role if role == "worker" else None
    is_reader = ("dashboard", "--read-only"), ("cron", "--list")
    return "reader" if any(rest[0] == own and option in rest for own, option in is_reader) else role


def environment(role: str | None) -> Mapping[str, str]:
    """Return the address of the run's server for this role, where a test has these users."""
    address = os.environ.get("RQ_REDIS_URL", "")
    return {"RQ_REDIS_URL": url(address, role)} if _USER.search(address) else {}


def settings(role: str) -> Settings:
    """Return the settings that a process of this role has."""
    return Settings.read({**os.environ, **environment(role)})._replace(budget_s=BUDGET_S)


def refused(client: redis.Redis) -> list[str]:
    """Return what Redis has refused to these users, and should not have.

    A key of other applications is one that bad data names. redis-py does without CLIENT SETINFO.
    """
    return [
        f"{own['username']}: {own['reason']} {own['object']} ({own['context']})"
        for own in client.acl_log()
        if own["username"].startswith("werk-")
        and own["object"] != "client|setinfo"
        and (own["reason"] != "key" or own["object"].startswith("rq:"))
    ]
