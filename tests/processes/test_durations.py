"""A duration is 90, "5m" or a timedelta wherever one is taken, and means the same."""

from __future__ import annotations

import json
import time
import warnings
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import pytest
import redis
from click.testing import CliRunner
from dashboards import HERE, Browse

import werk
from werk import registry
from werk.cli.enqueue import enqueue
from werk.cli.run import werk as commands
from werk.client.options import DURATIONS
from werk.tasks import catalog

OPTIONS = {  # each, with its name on the command line
    name: "--job-timeout" if name == "timeout" else f"--{name.replace('_', '-')}"
    for name in DURATIONS
}
NOT_WHOLE = ("delay", "once_per", "expires")
MEANT = {90: 90, "5m": 300, "1h30m": 5400, "1m0.5s": 60.5}  # written -> seconds
WRONG: tuple[Any, ...] = ("abc", "", "5 m", "1h-3m", "-2", "nan", "1e999", "9" * 400)


@pytest.fixture(autouse=True)
def _forgets() -> Iterator[None]:
    yield
    registry.tasks.cache_clear()
    catalog.own_entry.cache_clear()


def stored(connection: redis.Redis, name: str) -> float:
    """Return what the only job has of an option, in seconds."""
    [job] = connection.keys("rq:job:*")
    if name == "delay":
        seconds, micros = connection.time()
        due = connection.zscore("rq:scheduled:default", job.removeprefix(b"rq:job:"))
        return float(due or 0) - seconds - micros / 1e6
    if name == "once_per":
        [hold] = connection.keys("rq:werk:period:*")
        return connection.pttl(hold) / 900
    if name == "within":  # it is of the queue, and in no job
        return float(registry.tasks()["timed"].within)
    if name == "retry_delay":
        [interval] = json.loads(connection.hget(job, "retry_intervals") or "")
        return float(interval)
    return float(connection.hget(job, "ttl" if name == "expires" else name) or 0)


def in_python(name: str, value: object) -> str:
    try:
        werk.enqueue("hello", "Ada", options=werk.Options(**{name: value}))  # type: ignore[arg-type]
    except werk.ArgumentError as error:
        return str(error)
    return ""


def in_the_table(name: str, value: object) -> str:
    registry.tasks.cache_clear()
    catalog.own_entry.cache_clear()
    task = registry.Task("werk.jobs.hello", retry=1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(registry.TASKS, "timed", task._replace(**{name: value}))
        try:
            werk.enqueue("timed", "Ada")
        except werk.ConfigError as error:
            return str(error).removeprefix("werk.registry:TASKS: timed: ")
        return ""


def over_http(browse: Browse, name: str, value: object) -> str:
    body = {"args": ["Ada"], "options": {name: value}}
    answer = browse().post("/api/tasks/hello", json=body, base_url=HERE)
    return answer.json["error"] if answer.status_code >= 400 else ""


def in_a_shell(name: str, value: object) -> str:
    done = CliRunner().invoke(enqueue, [OPTIONS[name], str(value), "hello", "Ada"])
    before, _, said = done.output.rpartition("Invalid value for ")
    assert done.exit_code == (2 if before else 0)
    return said.strip().replace(f"'{OPTIONS[name]}'", name) if before else ""


def ways(browse: Browse, name: str, value: object) -> list[Callable[[], str]]:
    """Return each way to give a value; JSON and the shell have no timedelta."""
    found: list[Callable[[], str]] = []
    if name in DURATIONS:
        found.append(lambda: in_python(name, value))
        if not isinstance(value, timedelta):
            found += [lambda: over_http(browse, name, value), lambda: in_a_shell(name, value)]
    if name in registry.DURATIONS:
        found.append(lambda: in_the_table(name, value))
    return found


ALL = sorted({*DURATIONS, *registry.DURATIONS})


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("value", [*MEANT, *(timedelta(seconds=s) for s in MEANT.values())])
def test_each_duration_means_the_same_everywhere(
    connection: redis.Redis, browse: Browse, name: str, value: Any
) -> None:
    wanted = value.total_seconds() if isinstance(value, timedelta) else MEANT[value]
    given = ways(browse, name, value)
    assert given
    if wanted == 60.5 and name not in NOT_WHOLE:
        [said] = {way() for way in given}
        assert " whole seconds, or a text such as 5m or 1h30m" in said
        assert connection.keys() == []
        return
    for way in given:
        begun = time.monotonic()
        with warnings.catch_warnings(action="ignore"):
            assert way() == ""
        exact = 61 if (name, wanted) == ("expires", 60.5) else wanted  # a ttl is whole
        spread = 0
        if name == "retry_delay":  # at most an hour, and 10 % either way
            exact, spread = min(exact, 3600), exact * 0.1
        found = stored(connection, name)
        is_left = name in ("delay", "once_per")  # what is left of it by now
        passed = 2 * (time.monotonic() - begun) + 0.1 if is_left else 0
        assert exact - spread - passed <= found <= exact + spread + 0.01 * is_left
        connection.flushall()


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("value", WRONG)
def test_each_is_refused_with_the_same_sentence(
    connection: redis.Redis, browse: Browse, name: str, value: str
) -> None:
    [said] = {way() for way in ways(browse, name, value)}
    shown = f"'{value[:80]}'" + "..." * (len(value) > 80)
    assert said.startswith(f"{name}: got {shown}; use ")
    assert said.endswith("seconds, or a text such as 5m or 1h30m")
    assert connection.keys() == []


@pytest.mark.parametrize("words", ["result x --timeout", "cron x --catch-up"])
def test_the_commands_take_them(redis_url: str, words: str) -> None:
    for value, is_wrong in (("90", False), ("1m", False), ("abc", True), ("-1", True)):
        done = CliRunner().invoke(commands, [*words.split(), value, "--help"])
        assert done.exit_code == 0
        done = CliRunner().invoke(commands, [*words.split(), value])
        assert (f"got '{value}'; use 0 to" in done.output) == is_wrong
