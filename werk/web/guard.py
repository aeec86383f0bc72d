"""Who may ask the dashboard for what: known hosts, the password, our own pages."""

from __future__ import annotations

import logging
import math
import re
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Collection
from hmac import compare_digest
from ipaddress import IPv6Address, ip_address

from flask import Response, abort, request

from werk.errors import ConfigError
from werk.settings import Settings

LOOPBACK_HOSTS = frozenset(("localhost", "127.0.0.1", "[::1]"))
PUBLIC = ("healthz", "readyz")  # asked by machines without a password

MOST_WRONG = 5  # passwords of a peer in WINDOW_S; after that none of its passwords is looked at
WINDOW_S = 60.0
MOST_PEERS = 4096  # that are remembered: some hundred bytes each

log = logging.getLogger(__name__)


class Guard:
    """Refuses, before a view is called."""

    def __init__(self, settings: Settings, hosts: Collection[str], read_only: bool) -> None:
        self.user, self.password = settings.dashboard_username, settings.dashboard_password
        self.hosts = LOOPBACK_HOSTS | {_named(host) for host in hosts}
        self.read_only = read_only
        self.attempts = Attempts()
        if bool(self.user) != bool(self.password):
            raise ConfigError(
                "dashboard: set both RQ_DASHBOARD_USERNAME and RQ_DASHBOARD_PASSWORD, or neither"
            )

    def check(self) -> Response | None:
        """Refuse, or return None.

        Host: a page of elsewhere may reach us under its own name (DNS rebinding). Origin: it may
        have a browser that knows the password post to us.
        """
        if _without_port(request.host) not in self.hosts:
            abort(403, f"unknown Host {request.host[:100]!r}; see werk dashboard --host NAME")
        if request.endpoint in PUBLIC:
            return None
        if self.user and (refusal := self._ask_password()):
            return refusal
        if request.method in ("GET", "HEAD", "OPTIONS"):
            return None
        own_pages = (f"http://{request.host}", f"https://{request.host}")
        if request.headers.get("Origin") not in own_pages:
            abort(403, "only the dashboard's own pages may ask for this: Origin is not this Host")
        if self.read_only:
            abort(403, "this dashboard is read-only")
        return None

    def _ask_password(self) -> Response | None:
        """Refuse, or return None for the right password.

        A peer that has given too many wrong ones is refused whatever it gives, or it could go on
        guessing.
        """
        peer, has_given = request.remote_addr or "", "Authorization" in request.headers
        is_right = has_given and self._has_password()
        if has_given and (wait_s := self.attempts.note(peer, is_right)):
            said = f"too many wrong passwords from this address: try again in {wait_s} s\n"
            return Response(said, 429, {"Retry-After": str(wait_s)}, mimetype="text/plain")
        if is_right:
            return None
        given = "wrong" if has_given else "none"
        log.warning("event=unauthorized peer=%s password=%s", _shown(peer), given)
        return Response("a password, please\n", 401, {"WWW-Authenticate": 'Basic realm="werk"'})

    def _has_password(self) -> bool:
        given = request.authorization
        said = f"{given.username or ''}:{given.password or ''}" if given else ""
        return compare_digest(said.encode(), f"{self.user}:{self.password}".encode())


class Attempts:
    """The wrong passwords of the last minute, by peer. Bounded: the peer that gave one the longest
    ago is forgotten first."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock, self._lock = clock, threading.Lock()
        self._times: OrderedDict[str, deque[float]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._times)

    def note(self, peer: str, is_right: bool) -> int:
        """Note a password. Return 0, or for how many seconds this peer's are not looked at."""
        key = _network(peer)
        with self._lock:  # or threads that look at the same time would let more of them pass
            now = self._clock()
            times = self._times.get(key, deque())
            while times and times[0] <= now - WINDOW_S:
                times.popleft()
            if len(times) >= MOST_WRONG:
                return math.ceil(times[0] + WINDOW_S - now)
            if not is_right:
                times.append(now)
                self._times[key] = times
                self._times.move_to_end(key)
                if len(self._times) > MOST_PEERS:
                    self._times.popitem(last=False)
            is_full = len(times) >= MOST_WRONG
        if is_full:
            log.warning("event=passwords-refused peer=%s", _shown(peer))
        return 0


def _network(peer: str) -> str:
    """Return what shares a limit: an IPv4 address, or the /64 that one host may have in IPv6."""
    try:
        address = ip_address(peer)
    except ValueError:
        return peer
    if isinstance(address, IPv6Address):
        return str(IPv6Address(int(address) >> 64 << 64))
    return peer


def _shown(peer: str) -> str:
    """Return an address for the log, whatever a server in front of us took it from."""
    return re.sub(r"[^\w.:%-]", "?", peer[:100], flags=re.ASCII) or "?"


def _without_port(host: str) -> str:
    match = re.fullmatch(r"(\[[0-9a-f:.]+\]|[^:\[\]@/\s]+)(:\d+)?", host.lower())
    return match[1] if match else ""


def _named(host: str) -> str:
    """Return a name as it is in the header Host. Raises ConfigError."""
    if name := _without_port(f"[{host}]" if host.count(":") > 1 and "[" not in host else host):
        return name
    raise ConfigError(f"dashboard: --host {host!r} is no name of a host")
