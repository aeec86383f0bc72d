"""Write what this version sends and records, for the tests of the versions after it.

    python tests/kit/freeze.py tests/data/v1

Run it for a release whose records have a new version number (RECORD_VERSION in werk/store/keys.py).
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any, cast

import redis
from pair import Pair

from werk import Options
from werk.client import enqueue as client
from werk.client import request
from werk.dev.server import Server, free_port
from werk.worker.scripts import script

QUEUES = ("high", "low")
SCRIPTS = ("step", "tick", "back")


def write_scripts(folder: Path) -> None:
    (folder / "enqueue.lua").write_text(request.script().text)
    for name in SCRIPTS:
        (folder / f"{name}.lua").write_text(script(name).text)


def write_records(folder: Path, connection: redis.Redis, url: str) -> None:
    """Have a worker, `old`, leave a job in each place: `started` is the one that it had in hand."""

    def enqueue(job_id: str, task: str = "tough", **options: Any) -> None:
        options = {"queue": "high", "job_id": job_id, **options}
        client.enqueue(task, options=Options(**options), connection=connection)

    pair = Pair("old", QUEUES, url)
    pair.supervisor.tick()
    for job_id, how in (("finished", "returns"), ("failed", "raises")):
        enqueue(job_id)
        pair.step(None, True)
        if outcome := pair.perform(how):
            pair.step(outcome, False)
    enqueue("started")
    pair.step(None, True)
    enqueue("queued")
    enqueue("eager", "eager", once_per=3600)
    enqueue("scheduled", delay=1000)
    pair.supervisor.tick()
    found = {key: record(connection, key) for key in sorted(connection.keys("*"))}
    text = json.dumps({key.decode("latin-1"): own for key, own in found.items()}, indent=1)
    (folder / "records.json").write_text(text + "\n")
    pair.supervisor.close()


def record(connection: redis.Redis, key: bytes) -> dict[str, object]:
    kind = connection.type(key).decode()
    value: Any = {
        "hash": connection.hgetall,
        "zset": lambda key: dict(connection.zrange(key, 0, -1, withscores=True)),
        "list": lambda key: connection.lrange(key, 0, -1),
        "set": lambda key: sorted(connection.smembers(key)),
        "string": connection.get,
        "stream": lambda key: [list(entry) for entry in connection.xrange(key)],
    }[kind](key)
    return {"lives": cast(int, connection.ttl(key)), "type": kind, "value": plain(value)}


def plain(value: Any) -> Any:
    """Return a value as JSON can hold it: each byte as the character of its number."""
    match value:
        case bytes():
            return value.decode("latin-1")
        case dict():
            return {plain(name): plain(own) for name, own in value.items()}
        case list() | tuple():
            return [plain(own) for own in value]
    return value


def main() -> None:
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    os.environ["WERK_REGISTRY"] = "test_scripts:TASKS"
    sys.path.insert(0, str(Path(__file__).parents[1] / "redis"))
    with tempfile.TemporaryDirectory() as state:
        server = Server(Path(state), free_port())
        server.start()
        try:
            write_scripts(folder)
            write_records(folder, redis.Redis.from_url(server.url), server.url)
        finally:
            server.stop()


if __name__ == "__main__":
    main()
