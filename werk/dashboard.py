"""`werk dashboard`: rq-dashboard's pages in an app of our own, safe to leave open.

Its pages are used (templates, scripts, styles, addresses) and none of its views: those unpickle
what they show, and change things on a GET. A view of ours stands in for each, by name. Who may ask
is _Guard's; what is shown is show.py's and status.py's, what is done actions.py's.
"""

from __future__ import annotations

import ipaddress
import logging
import re
import signal
import threading
from collections.abc import Collection, Iterator, Mapping
from hmac import compare_digest
from typing import Any

from flask import Flask, Response, abort, jsonify, render_template, request, url_for
from rq.version import VERSION as RQ_VERSION
from rq_dashboard import web
from waitress import create_server
from werkzeug.exceptions import HTTPException

from werk import actions, show, status
from werk.actions import Filters
from werk.errors import ConfigError, NoSuchJob, RedisUnavailable, WerkError
from werk.link import link
from werk.settings import Settings

LOOPBACK_HOSTS = frozenset(("localhost", "127.0.0.1", "[::1]"))
LONGEST_BODY = 64 * 1024  # bytes; a POST of the pages has none
MOST_ROWS = 200  # on a page: the most that its field takes
LAST_PAGE = 10**9
THREADS = 16  # a page that waits for Redis holds one, and /healthz has to find one that is free

CHANGES = ("requeue_job_view", "requeue_all", "delete_job_view", "empty_queue", "compact_queue")
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
    views, theirs = _Views(settings), web.blueprint.name
    for name in [name for name in app.view_functions if name.startswith(f"{theirs}.")]:
        view = name.removeprefix(f"{theirs}.")
        if view not in ("static", "favicon"):
            app.view_functions[name] = getattr(views, view)
    app.add_url_rule("/healthz", "healthz", lambda: _plain("ok\n"))
    app.add_url_rule("/readyz", "readyz", views.readyz)
    app.add_url_rule("/metrics", "metrics", views.metrics)
    app.url_value_preprocessor(_check_address)
    app.before_request(_Guard(settings, hosts, read_only).check)
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

    def __init__(self, settings: Settings, hosts: Collection[str], read_only: bool) -> None:
        self.user, self.password = settings.dashboard_username, settings.dashboard_password
        self.hosts = LOOPBACK_HOSTS | {_named(host) for host in hosts}
        self.read_only = read_only
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
        elif (request.endpoint or "").rpartition(".")[2] in CHANGES:
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


class _Views(threading.local):  # each thread has a link of its own
    """What stands in for rq-dashboard's views, by their names."""

    def __init__(self, settings: Settings) -> None:
        self.link = link(settings)

    def readyz(self) -> Response:
        self.link.call("PING")
        return _plain("ok\n")

    def metrics(self) -> Response:
        return _plain(status.metrics(self.link))

    def queues_overview(self) -> str:
        return render_template("rq_dashboard/queues.html", active_tab="queues")

    def workers_overview(self) -> str:
        return render_template("rq_dashboard/workers.html", active_tab="workers")

    def jobs_overview(self, queue_name: str | None, **place: Any) -> str:
        return render_template(
            "rq_dashboard/jobs.html",
            active_tab="jobs",
            queues=[{"name": name} for name in actions.queues(self.link)],
            queue={"name": queue_name or "default"},
            **place,
        )

    def job_view(self, job_id: str) -> str:
        show.check(self.link, job_id)
        return render_template("rq_dashboard/job.html", id=job_id)

    def list_queues(self) -> Response:
        rows = []
        for name, sizes in show.sizes(self.link, actions.queues(self.link)).items():
            urls = {f"{own}_url": _list_url(name, own, 8, "asc", 1) for own in sizes}
            counts = {f"{own}_job_registry_count": count for own, count in sizes.items()}
            rows.append({"name": name, "count": sizes["queued"], **counts, **urls})
        return jsonify(queues=rows)

    def list_jobs(
        self, queue_name: str, registry_name: str, per_page: int, order: str, page: int
    ) -> Response:
        start, is_reversed = (page - 1) * per_page, order == "dsc"
        total, rows = show.rows(
            self.link, queue_name, registry_name, start, per_page, last_first=is_reversed
        )

        def at(number: int) -> dict[str, Any]:
            url = _list_url(queue_name, registry_name, per_page, order, max(1, number))
            return {"number": number, "url": url}

        last = -(-total // per_page)
        pagination = {
            "current_page": page,
            "num_pages": last,
            "pages_in_window": [at(own) for own in web.pagination_window(total, page, per_page)],
            "first_page": at(1),
            "last_page": at(last),
            **({"prev_page": at(page - 1)} if page > 1 else {}),
            **({"next_page": at(page + 1)} if page < last else {}),
        }
        return jsonify(jobs=rows, pagination=pagination)

    def job_info(self, job_id: str) -> Response:
        return jsonify(show.page(self.link, job_id))

    def list_workers(self) -> Response:
        workers = status.Snapshot.read(self.link).workers
        jobs = [own.job for own in workers if own.job]
        calls = dict(zip(jobs, show.calls(self.link, jobs), strict=True))
        return jsonify(workers=[_worker_row(own, calls) for own in workers])

    def requeue_job_view(self, job_id: str) -> Response:
        return self._changed(actions.act(self.link, "retry", [job_id]), "not among the failed")

    def requeue_all(self, queue_name: str) -> Response:
        done = sum(actions.retry_all(self.link, Filters(queue=queue_name)))
        return jsonify(status="OK", count=done)

    def delete_job_view(self, job_id: str) -> Response:
        return self._changed(actions.act(self.link, "delete", [job_id]), "running, and would go on")

    def empty_queue(self, queue_name: str, registry_name: str) -> Response:
        if registry_name == "started":
            abort(409, "jobs that are running would go on")
        count = actions.empty(self.link, show.PLACES[registry_name], queue_name)
        return jsonify(status="OK", count=count)

    def compact_queue(self, queue_name: str) -> Response:
        actions.compact(self.link, queue_name)
        return jsonify(status="OK")

    def _changed(self, outcomes: Iterator[tuple[str, str]], otherwise: str) -> Response:
        ((job_id, outcome),) = outcomes
        if outcome == "gone":
            raise NoSuchJob(f"no job {job_id}: deleted or expired")
        if outcome not in ("retried", "limited", "deleted"):
            abort(409, f"job {job_id} is {otherwise}")
        return jsonify(status="OK")


def _worker_row(own: status.Worker, calls: Mapping[str, str]) -> dict[str, Any]:
    """Return a worker as rq-dashboard's script and our template take it."""
    job = {"job_id": own.job, "call_string": calls[own.job]} if own.job else "idle"
    return {
        "name": own.name,
        "hostname": own.host,
        "pid": own.pid,
        "state": own.state,
        "status": own.state,  # the script writes over the other
        "bad": own.state in ("stale", "hung"),
        "beat": f"{own.beat_s:.0f} s ago",
        "queues": own.queues,
        "successful_job_count": own.done,
        "failed_job_count": own.failed,
        "current_job": job,
    }


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


def _list_url(queue: str, place: str, per_page: int, order: str, page: int) -> str:
    words: dict[str, Any] = {
        "queue_name": queue,
        "registry_name": place,
        "per_page": per_page,
        "order": order,
    }
    return url_for("rq_dashboard.jobs_overview", instance_number=0, page=page, **words)


def _check_address(_: str | None, values: dict[str, Any] | None) -> None:
    """Check and convert what is in an address, and take the number of a Redis server out of it."""
    if not values:
        return
    if values.pop("instance_number", 0):
        abort(404, "a dashboard has one Redis; its number is 0")
    if values.get("registry_name", "queued") not in show.PLACES:
        abort(404, f"no such registry: want one of {', '.join(show.PLACES)}")
    for name, most in {"per_page": MOST_ROWS, "page": LAST_PAGE}.items():
        if name in values:
            if not str(values[name]).isdecimal():
                abort(404, f"{name} is a number")
            values[name] = min(max(1, int(str(values[name])[:10])), most)


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
    elif isinstance(error, WerkError):
        is_away = isinstance(error, (RedisUnavailable, ConfigError))
        code, said = 503 if is_away else 404, str(error)
    else:
        log.error("event=error path=%r", request.path, exc_info=error)
        code, said = 500, f"{type(error).__name__}; its traceback is in the dashboard's log"
    response = jsonify(error=said)
    response.status_code = code
    return response


def _plain(text: str) -> Response:
    return Response(text, mimetype="text/plain")


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
