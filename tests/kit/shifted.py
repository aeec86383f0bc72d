"""Start a process on a host whose clock is wrong: shifted.env(90) goes into its environment.

Its Python then imports the `sitecustomize` that is written here, before anything of werk or RQ.
"""

from __future__ import annotations

from pathlib import Path

HOOK = '''
import os, sys, time

ahead_s = float(os.environ["AHEAD_S"])
true_time, true_time_ns, true_gmtime = time.time, time.time_ns, time.gmtime
time.time = lambda: true_time() + ahead_s
time.time_ns = lambda: true_time_ns() + int(ahead_s * 1e9)

import calendar, datetime, socket

def now():
    return datetime.datetime.fromtimestamp(time.time(), datetime.timezone.utc)

if ahead_s:
    socket.gethostname = lambda: "shifted"

class Finder:
    """Shift rq.utils as soon as it is imported: not before, since many commands do without."""

    def find_spec(self, name, path=None, target=None):
        if name != "rq.utils":
            return None
        sys.meta_path.remove(self)
        import importlib.util

        spec = importlib.util.find_spec(name)
        load = spec.loader.exec_module

        def exec_module(module):
            load(module)
            module.now = now
            module.current_timestamp = lambda: calendar.timegm(now().utctimetuple())

        spec.loader.exec_module = exec_module
        return spec

sys.meta_path.insert(0, Finder())
'''


def env(folder: Path, ahead_s: float, *more: object) -> dict[str, str]:
    """Return the environment of such a process; `more` are folders for its PYTHONPATH."""
    hook = folder / f"ahead{ahead_s:g}"
    hook.mkdir(exist_ok=True)
    (hook / "sitecustomize.py").write_text(HOOK)
    return {"PYTHONPATH": ":".join(map(str, (hook, *more))), "AHEAD_S": str(ahead_s)}
