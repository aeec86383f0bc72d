"""`werk dashboard`: rq-dashboard's pages in an app of our own, safe to leave open.

Its pages are used (templates, scripts, styles, addresses) and none of its views: those unpickle
what they show, and change things on a GET. A view of ours stands in for each, by name. Who may ask
is _Guard's, what is shown is shown.py's; what is done goes through RQ, which opens no payload then.
"""

from __future__ import annotations

import ipaddress
import logging
import re
import signal
import threading
from collections.abc import Collection
from contextlib import suppress
from hmac import compare_digest
from typing import Any, cast

import redis
from flask import Flask, Response, abort, jsonify, render_template, request, url_for
from redis.backoff import NoBackoff
from redis.retry import Retry
from rq import Queue
from rq.exceptions import InvalidJobOperation, NoSuchJobError
from rq.job import Job
from rq.version import VERSION as RQ_VERSION
from rq_dashboard import web
from waitress import create_server
from werkzeug.exceptions import HTTPException

from werk import shown, wire
from werk.errors import ConfigError, NoSuchJob, WerkError
from werk.link import COMMAND_BUDGET_S, Link, link, redis_client
from werk.settings import Settings

LOOPBACK_HOSTS = frozenset(("localhost", "127.0.0.1", "[::1]"))
LONGEST_BODY = 64 * 1024  # bytes; a POST of the pages has none
MOST_ROWS = 200  # on a page: the most that its field takes
LAST_PAGE = 10**9
THREADS = 16  # a page that waits for Redis holds one, and /healthz has to find one that is free

PUBLIC = ("healthz", "readyz")  # asked by machines without a password
HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'self'; script-src-attr 'none'; "
    "script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data:; object-src 'none'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "Referrer-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}

log = logging.getLogger(__name__)


def serve(
    settings: Settings, *, bind: str, port: int, hosts: Collection[str], read_only: bool
) -> int:
    """Serve until SIGTERM or Ctrl-C. Return the exit code. Raises ConfigError."""
    app = make_app(settings, hosts=hosts, read_only=read_only)
    if not settings.dashboard_password and not _is_loopback(bind):
        raise ConfigError(
            f"dashboard: --bind {bind} is open to others: "
            "set RQ_DASHBOARD_USERNAME and RQ_DASHBOARD_PASSWORD"
        )
    try:
        server = create_server(
            app,
            host=bind,
            port=port,
            threads=THREADS,
            ident="werk",
            max_request_body_size=LONGEST_BODY,
        )
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or error
        raise ConfigError(f"dashboard: port {port} of {bind}: {why}; see --port, --bind") from None
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    address = f"http://{f'[{bind}]' if ':' in bind else bind}:{port}"
    log.info("event=serving address=%s redis=%s", address, link(settings).where)
    server.run()
    return 0


def make_app(settings: Settings, *, hosts: Collection[str] = (), read_only: bool = False) -> Flask:
    """Return the WSGI app; it reaches for Redis when a page does. Raises ConfigError."""
    app = _App(__name__, static_folder=f"{web.blueprint.root_path}/static")
    app.register_blueprint(web.blueprint)
    app.before_request_funcs.pop(web.blueprint.name)  # it would connect at each request
    reads, posts = _Reads(settings), _Posts(settings)
    theirs = web.blueprint.name
    for name in [name for name in app.view_functions if name.startswith(f"{theirs}.")]:
        view = name.removeprefix(f"{theirs}.")
        if view not in ("static", "favicon"):
            app.view_functions[name] = getattr(posts if hasattr(posts, view) else reads, view)
    app.add_url_rule("/healthz", "healthz", lambda: _plain("ok\n"))
    app.add_url_rule("/readyz", "readyz", reads.readyz)
    app.add_url_rule("/metrics", "metrics", reads.metrics)
    app.url_value_preprocessor(_without_instance)
    app.before_request(_Guard(settings, hosts, read_only, posts).check)
    app.after_request(_finish)
    app.register_error_handler(Exception, _as_json)
    where = link(settings).where
    app.context_processor(lambda: _context(where, read_only))
    return app


class _App(Flask):
    def select_jinja_autoescape(self, filename: str | None) -> bool:
        return True  # in scripts too: one of theirs has the queue's name between quotes


class _Guard:
    """Who may ask for what."""

    def __init__(
        self, settings: Settings, hosts: Collection[str], read_only: bool, posts: object
    ) -> None:
        self.user, self.password = settings.dashboard_username, settings.dashboard_password
        self.hosts = LOOPBACK_HOSTS | {_named(host) for host in hosts}
        self.read_only, self.posts = read_only, posts
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
        if self.user and not self._has_password():
            return Response("a password, please\n", 401, {"WWW-Authenticate": 'Basic realm="werk"'})
        if request.method not in ("GET", "HEAD", "OPTIONS"):
            self._check_change()
        elif hasattr(self.posts, (request.endpoint or "").rpartition(".")[2]):
            abort(405, "POST: it changes something")
        return None

    def _check_change(self) -> None:
        own = re.escape(request.host)
        if not re.fullmatch(f"https?://{own}", request.headers.get("Origin", "")):
            abort(403, "only the dashboard's own pages may ask for this: Origin is not this Host")
        if self.read_only:
            abort(403, "this dashboard is read-only")

    def _has_password(self) -> bool:
        given = request.authorization
        user, password = (given.username, given.password) if given else ("", "")
        return _is_same(user, self.user) & _is_same(password, self.password)


class _Reads:
    """The views that show something."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._own = threading.local()

    @property
    def link(self) -> Link:
        """The link of this thread."""
        if not hasattr(self._own, "link"):
            self._own.link = link(self.settings)
        own: Link = self._own.link
        return own

    def readyz(self) -> Response:
        self.link.call("PING")
        return _plain("ok\n")

    def metrics(self) -> Response:
        from werk import status

        return _plain(status.metrics(self.link))

    def queues_overview(self) -> str:
        return render_template("rq_dashboard/queues.html", active_tab="queues")

    def workers_overview(self) -> str:
        return render_template("rq_dashboard/workers.html", active_tab="workers")

    def jobs_overview(
        self, queue_name: str | None, registry_name: str, per_page: str, order: str, page: str
    ) -> str:
        return render_template(
            "rq_dashboard/jobs.html",
            active_tab="jobs",
            queues=[{"name": name} for name in shown.queues(self.link)],
            queue={"name": queue_name or "default"},
            registry_name=_registry(registry_name),
            per_page=_whole(per_page, MOST_ROWS),
            order=order,
            page=_whole(page, LAST_PAGE),
        )

    def job_view(self, job_id: str) -> str:
        shown.check(self.link, job_id)
        return render_template("rq_dashboard/job.html", id=job_id)

    def list_queues(self) -> Response:
        names = shown.queues(self.link)
        rows = []
        for name, sizes in zip(names, shown.counts(self.link, names), strict=True):
            urls = {f"{own}_url": _list_url(name, own, 8, "asc", 1) for own in sizes}
            counts = {f"{own}_job_registry_count": size for own, size in sizes.items()}
            rows.append({"name": name, "count": sizes["queued"], **counts, **urls})
        return jsonify(queues=rows)

    def list_jobs(
        self, queue_name: str, registry_name: str, per_page: str, order: str, page: str
    ) -> Response:
        count, number = _whole(per_page, MOST_ROWS), _whole(page, LAST_PAGE)
        total, rows = shown.rows(
            self.link,
            queue_name,
            _registry(registry_name),
            (number - 1) * count,
            count,
            last_first=order == "dsc",
        )

        def at(number: int) -> dict[str, Any]:
            url = _list_url(queue_name, registry_name, count, order, max(1, number))
            return {"number": number, "url": url}

        last = -(-total // count)
        pagination = {
            "current_page": number,
            "num_pages": last,
            "pages_in_window": [at(own) for own in web.pagination_window(total, number, count)],
            "first_page": at(1),
            "last_page": at(last),
            **({"prev_page": at(number - 1)} if number > 1 else {}),
            **({"next_page": at(number + 1)} if number < last else {}),
        }
        return jsonify(
            name=queue_name, registry_name=registry_name, jobs=rows, pagination=pagination
        )

    def job_info(self, job_id: str) -> Response:
        return jsonify(shown.page(self.link, job_id))

    def list_workers(self) -> Response:
        return jsonify(workers=shown.workers(self.link))


class _Posts:
    """The views that change something."""

    def __init__(self, settings: Settings) -> None:
        self.client = redis_client(settings)
        self.client.connection_pool.connection_kwargs |= {
            "socket_timeout": COMMAND_BUDGET_S,
            "socket_connect_timeout": COMMAND_BUDGET_S,
            "retry": Retry(NoBackoff(), 1),
        }

    def requeue_job_view(self, job_id: str) -> Response:
        self._requeue(job_id)
        return jsonify(status="OK")

    def requeue_all(self, queue_name: str) -> Response:
        """RQ's own, one after the other; what somebody else was faster with is left out."""
        done = 0
        for entry in self._entries(shown.key("failed", queue_name)):
            with suppress(NoSuchJob, HTTPException):
                self._requeue(entry.decode("utf-8", "replace"))
                done += 1
        return jsonify(status="OK", count=done)

    def delete_job_view(self, job_id: str) -> Response:
        self._delete(job_id)
        return jsonify(status="OK")

    def empty_queue(self, queue_name: str, registry_name: str) -> Response:
        if _registry(registry_name) == "started":
            abort(409, "jobs that are running would go on")
        if registry_name == "queued":
            self._queue(queue_name).empty()  # type: ignore[no-untyped-call]
        else:
            key = shown.key(registry_name, queue_name)
            for entry in self._entries(key):
                with suppress(NoSuchJob, HTTPException):
                    self._delete(entry.decode("utf-8", "replace"), remove_from_queue=False)
                self.client.zrem(key, entry)
        return jsonify(status="OK")

    def compact_queue(self, queue_name: str) -> Response:
        """Take the ids of jobs that are gone out of a queue, which stays where it is."""
        queue = self._queue(queue_name)
        for job_id in queue.get_job_ids():
            if not Job.exists(job_id, self.client):
                self.client.lrem(queue.key, 1, job_id)
        return jsonify(status="OK")

    def _requeue(self, job_id: str) -> None:
        try:
            self._fetch(job_id).requeue()
        except InvalidJobOperation:
            abort(409, f"job {job_id} is not among the failed")
        except (ValueError, redis.ResponseError) as error:
            abort(409, f"the record of job {job_id} is broken: {error}")

    def _delete(self, job_id: str, *, remove_from_queue: bool = True) -> None:
        try:
            job = self._fetch(job_id)
        except (ValueError, redis.ResponseError):  # what RQ cannot read it cannot delete
            self._forget(job_id)
        else:
            if job.get_status(refresh=False) == "started":
                abort(409, f"job {job_id} is running, and would go on")
            job.delete(remove_from_queue=remove_from_queue)

    def _forget(self, job_id: str) -> None:
        job, queue = wire.key("job", job_id), b""
        with suppress(redis.ResponseError):  # it may be no hash
            queue = cast(bytes, self.client.hget(job, "origin") or b"")
        place = queue.decode("utf-8", "replace")
        with self.client.pipeline() as pipe:
            results = wire.key("results", job_id)
            pipe.delete(job, f"{job}:dependents", f"{job}:dependencies", results)
            pipe.lrem(shown.key("queued", place), 0, job_id)
            for name in set(shown.REGISTRIES) - {"queued", "started"}:
                pipe.zrem(shown.key(name, place), job_id)
            pipe.execute()

    def _entries(self, key: str) -> list[bytes]:
        return cast("list[bytes]", self.client.zrange(key, 0, -1))

    def _fetch(self, job_id: str) -> Job:
        """Raises NoSuchJob; ValueError if its record is broken."""
        try:
            return Job.fetch(job_id, self.client, serializer=_Sealed)
        except NoSuchJobError:
            raise NoSuchJob(f"no job {job_id}: deleted or expired") from None

    def _queue(self, name: str) -> Queue:
        return Queue(name, connection=self.client, serializer=_Sealed)


class _Sealed:
    """RQ's serializer, which opens nothing: RQ then keeps the bytes as they are."""

    @staticmethod
    def loads(data: bytes) -> Any:
        raise ValueError("sealed")

    dumps = loads


def _context(where: str, read_only: bool) -> dict[str, Any]:
    """Return what all of rq-dashboard's templates want to know."""
    return {
        "current_instance": 0,
        "instance_list": [where],
        "rq_url_prefix": url_for("rq_dashboard.queues_overview"),
        "rq_dashboard_version": web.rq_dashboard_version,
        "rq_version": RQ_VERSION,
        "enable_delete": not read_only,
    }


def _list_url(queue: str, registry: str, per_page: int, order: str, page: int) -> str:
    return url_for(
        "rq_dashboard.jobs_overview",
        instance_number=0,
        queue_name=queue,
        registry_name=registry,
        per_page=per_page,
        order=order,
        page=page,
    )


def _without_instance(_: str | None, values: dict[str, Any] | None) -> None:
    """Take the number of a Redis server out of an address: a dashboard has one."""
    if values and values.pop("instance_number", 0):
        abort(404, "a dashboard has one Redis; its number is 0")


def _finish(response: Response) -> Response:
    for name, value in HEADERS.items():
        response.headers.setdefault(name, value)  # a script or style may be kept
    if request.method == "POST":
        log.info("event=asked path=%r status=%s", request.path, response.status_code)
    return response


def _as_json(error: Exception) -> Response:
    """Return an error as the pages show it."""
    if isinstance(error, HTTPException):
        code, said = error.code or 500, error.description
    elif isinstance(error, NoSuchJob):
        code, said = 404, str(error)
    elif isinstance(error, (WerkError, redis.RedisError)):
        code, said = 503, str(error)
    else:
        log.error("event=error path=%r", request.path, exc_info=error)
        code, said = 500, f"{type(error).__name__}; its traceback is in the dashboard's log"
    response = jsonify(error=said)
    response.status_code = code
    return response


def _plain(text: str) -> Response:
    return Response(text, mimetype="text/plain")


def _registry(name: str) -> str:
    if name not in shown.REGISTRIES:
        abort(404, f"no registry {name!r}: {', '.join(shown.REGISTRIES)}")
    return name


def _whole(text: int | str, most: int) -> int:
    """Return a number of the address, 1 or more."""
    if not str(text).isdecimal():
        abort(404, f"{text!r} is no number")
    return min(max(1, int(text)), most)


def _is_same(given: str | None, wanted: str | None) -> bool:
    return compare_digest((given or "").encode(), (wanted or "").encode())


def _without_port(host: str) -> str:
    match = re.fullmatch(r"(\[[0-9a-f:.]+\]|[^:\[\]@/\s]+)(:\d+)?", host.lower())
    return match[1] if match else ""


def _named(host: str) -> str:
    """Return a name as it is in the header Host. Raises ConfigError."""
    if name := _without_port(f"[{host}]" if host.count(":") > 1 and "[" not in host else host):
        return name
    raise ConfigError(f"dashboard: --host {host!r} is no name of a host")


def _is_loopback(bind: str) -> bool:
    try:
        return ipaddress.ip_address(bind).is_loopback
    except ValueError:
        return bind == "localhost"
