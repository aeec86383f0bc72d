"""What the commands that act on several jobs, queues or workers print."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from werk import errors
from werk.cli import output
from werk.ops import actions
from werk.ops.queues import queue_names
from werk.printable import near, shell_words
from werk.store.connection import Link

NO_JOB = "no job {}: never enqueued here, or expired"
RUNNING = "job {} is running; to stop it: werk stop {}"
# For each action: the outcomes that are successes, and the message for any other.
MESSAGES: Mapping[str, tuple[Mapping[str, str], str]] = {
    "retry": ({"retried": "{} retried", "limited": "{} retried"}, "job {} is {}, not failed"),
    "cancel": ({"cancelled": "{} cancelled"}, "job {} is {}, not waiting"),
    "discard": ({"deleted": "{} discarded"}, "job {} is {}, neither failed nor finished"),
    "pause": ({"yes": "queue {} paused", "already": "queue {} was already paused"}, ""),
    "resume": ({"yes": "queue {} resumed", "already": "queue {} was not paused"}, ""),
    "drain": ({"asked": "{}", "already": "{}"}, "worker {} is {}; see werk status"),
}


def act(link: Link, what: str, names: Iterable[str], as_json: bool) -> int | None:
    """Apply an action to each name, print the outcomes, return the exit code."""
    good, _ = MESSAGES[what]
    found = dict(actions.act(link, what, dict.fromkeys(names)))
    lines = [good[outcome].format(name) for name, outcome in found.items() if outcome in good]
    output.print_rows(as_json, found, *lines)
    for name, outcome in found.items():
        if outcome not in good:
            output.print_note(f"werk: {_refusal(link, what, name, outcome)}")
    if "gone" in found.values():
        return errors.EXIT_NO_JOB
    if what in ("pause", "resume") and "unknown" in found.values():
        return errors.EXIT_USAGE
    return errors.EXIT_FAILED if len(lines) < len(found) else None


def _refusal(link: Link, what: str, name: str, outcome: str) -> str:
    """Return why an action was not done to a job, a queue or a worker."""
    if what in ("pause", "resume"):
        return f"unknown queue {name!r}{near(name, queue_names(link))}"
    if outcome == "gone":
        return NO_JOB.format(name)
    if (what, outcome) == ("drain", "unknown"):
        return f"worker {name} is unknown{near(name, actions.live_names(link))}"
    if what in ("cancel", "discard") and outcome == "started":
        return RUNNING.format(name, shell_words(name))
    if why := actions.stuck(what, outcome):
        return f"job {name} is {why}"
    return MESSAGES[what][1].format(name, outcome)
