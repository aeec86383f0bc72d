"""The same no-op for huey, in a venv of its own: python huey_app.py COUNT enqueues."""

from __future__ import annotations

import os
import sys

from huey import RedisHuey

huey = RedisHuey("bench", url=os.environ["RQ_REDIS_URL"])


@huey.task()
def noop(number: int) -> int:
    return number


if __name__ == "__main__":
    import huey_app  # the consumer knows the task as this module's, not as __main__'s

    for index in range(int(sys.argv[1])):
        huey_app.noop(index)
