"""Which requests the dashboard accepts: from known hosts, with the password, from its own pages."""

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

from flask import Response, abort, g, jsonify, request

from werk.errors import ConfigError
from werk.log_format import Event
from werk.printable import is_storable
from werk.settings import Settings

LOOPBACK_HOSTS = frozenset(("localhost", "127.0.0.1", "[::1]"))
PUBLIC = ("healthz", "readyz")  # for machines, without a password
FOR_PROGRAMS = ("enqueue", "no_task")  # programs send no Origin; browsers always do

MOST_WRONG = 5  # passwords from one peer in WINDOW_S; after that all its passwords are refused
WINDOW_S = 60.0
MOST_PEERS = 4096  # are remembered, in a few hundred bytes each

Refusal = tuple[Response, int, dict[str, str]]

log = logging.getLogger(__name__)


class Guard:
    """Refuses requests before a view is called."""

    def __init__(self, settings: Settings, hosts: Collection[str], read_only: bool) -> None:
        self.user, self.password = settings.dashboard_username, settings.dashboard_password
        self.hosts = LOOPBACK_HOSTS | {_named(host) for host in hosts}
        self.read_only = read_only
        self.attempts = Attempts()
        if bool(self.user) != bool(self.password):
            raise ConfigError(
                "dashboard: set both RQ_DASHBOARD_USERNAME and RQ_DASHBOARD_PASSWORD, or neither"
            )
        if not is_storable(f"{self.user}:{self.password}"):
            names = "RQ_DASHBOARD_USERNAME and RQ_DASHBOARD_PASSWORD"
            raise ConfigError(f"dashboard: {names} have to be valid UTF-8; set others")

    def check(self) -> Refusal | None:
        """Refuse a request, or return None.

        Host: a foreign page can reach the dashboard under its own name (DNS rebinding). Origin: it
        can make a browser that has the password send a POST.
        """
        if _without_port(request.host) not in self.hosts:
            abort(403, f"unknown Host {request.host[:100]!r}; see werk dashboard --host NAME")
        if request.endpoint in PUBLIC:
            return None
        if self.user and (refusal := self._ask_password()):
            return refusal
        g.may_ask = True
        if request.method in ("GET", "HEAD", "OPTIONS"):
            return None
        own_pages = (f"http://{request.host}", f"https://{request.host}")
        origin = request.headers.get("Origin")
        is_program = origin is None and request.endpoint in FOR_PROGRAMS
        if origin not in own_pages and not is_program:
            text = "only the dashboard's own pages may send this: Origin is not this Host"
            abort(403, f"{text}; a proxy must keep the header Host")
        if self.read_only:
            abort(403, "this dashboard is read-only")
        return None

    def _ask_password(self) -> Refusal | None:
        """Refuse a request, or return None for the right password.

        A peer that has sent too many wrong ones is refused even with the right one, or it could
        continue to guess.
        """
        peer, has_given = request.remote_addr or "", "Authorization" in request.headers
        is_right = has_given and self._has_password()
        if has_given and (wait_s := self.attempts.note(peer, is_right)):
            text = f"too many wrong passwords from this address: try again in {wait_s} s"
            return jsonify(error=text), 429, {"Retry-After": str(wait_s)}
        if is_right:
            return None
        given = "wrong" if has_given else "none"
        log.warning(Event("unauthorized", peer=_shown(peer), password=given))
        challenge = {"WWW-Authenticate": 'Basic realm="werk"'}
        return jsonify(error="password required"), 401, challenge

    def _has_password(self) -> bool:
        given = request.authorization
        text = f"{given.username or ''}:{given.password or ''}" if given else ""
        return compare_digest(text.encode(), f"{self.user}:{self.password}".encode())


class Attempts:
    """The wrong passwords of the last minute, by peer.

    Their number is limited: the peer whose last one is the oldest is forgotten first.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock, self._lock = clock, threading.Lock()
        self._times: OrderedDict[str, deque[float]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._times)

    def note(self, peer: str, is_right: bool) -> int:
        """Note a password. Return 0, or for how many seconds this peer is refused."""
        key = _network(peer)
        with self._lock:  # or concurrent threads would let more of them pass
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
            log.warning(Event("passwords-refused", peer=_shown(peer)))
        return 0


def _network(peer: str) -> str:
    """Return the unit that a limit is for: an IPv4 address, or the /64 of a host in IPv6."""
    try:
        address = ip_address(peer)
    except ValueError:
        return peer
    if isinstance(address, IPv6Address):
        return str(IPv6Address(int(address) >> 64 << 64))
    return peer


def _shown(peer: str) -> str:
    """Return an address for the log; a proxy may have taken it from a header."""
    return re.sub(r"[^\w.:%-]", "?", peer[:100], flags=re.ASCII) or "?"


def _without_port(host: str) -> str:
    match = re.fullmatch(r"(\[[0-9a-f:.]+\]|[^:\[\]@/\s]+)(:\d+)?", host.lower())
    return match[1] if match else ""


def _named(host: str) -> str:
    """Return a name as the header Host has it. Raises ConfigError."""
    if name := _without_port(f"[{host}]" if host.count(":") > 1 and "[" not in host else host):
        return name
    use = "use a name or an address, without http:// and without a path"
    raise ConfigError(f"dashboard: invalid host name {host!r} in --host; {use}")
