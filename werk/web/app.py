"""`werk dashboard`: rq-dashboard's pages in an app of our own, safe to leave open.

Its pages are used (templates, scripts, styles, addresses) and none of its views: those unpickle
what they show, and change things on a GET. A view of ours stands in for each, by name. Who may ask
is _Guard's; what is shown is show.py's and status.py's, what is done actions.py's.
"""

from __future__ import annotations

import logging
import re
import signal
import threading
from collections.abc import Collection, Iterator
from typing import Any

from flask import Flask, Response, abort, jsonify, render_template, request, url_for
from rq.version import VERSION as RQ_VERSION
from rq_dashboard import web
from werkzeug.exceptions import HTTPException

from werk.errors import ConfigError, NoSuchJob, RedisUnavailable, WerkError
from werk.ops import actions
from werk.ops import job_view as show
from werk.ops import snapshot as status
from werk.ops.actions import Filters
from werk.settings import Settings
from werk.store.connection import link
from werk.web import addresses
from werk.web.guard import Guard
from werk.web.http_server import listen

LOOPBACK_BIND = re.compile(r"localhost|::1|127(\.\d+){3}")
MOST_ROWS = 200  # on a page: the most that its field takes
LAST_PAGE = 10**9
READY_AT_ONCE = 4  # requests that may wait for Redis without a password

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
    if not settings.dashboard_password and not LOOPBACK_BIND.fullmatch(bind):
        raise ConfigError(
            f"dashboard: --bind {bind} is open to others: "
            "set RQ_DASHBOARD_USERNAME and RQ_DASHBOARD_PASSWORD"
        )
    try:
        server = listen(app, bind, port)
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
    app = Flask(__name__, static_folder=f"{web.blueprint.root_path}/static")
    app.jinja_options = {"autoescape": True}  # in scripts too
    app.register_blueprint(web.blueprint)
    addresses.take_any_name(app)
    app.before_request_funcs.pop(web.blueprint.name)  # it would connect at each request
    views = _Views(settings, read_only)
    for name in app.view_functions:
        owner, _, view = name.partition(".")
        if owner == web.blueprint.name and view not in ("static", "favicon"):
            app.view_functions[name] = getattr(views, view)
    app.add_url_rule("/healthz", "healthz", lambda: _plain("ok\n"))
    app.add_url_rule("/readyz", "readyz", views.readyz)
    app.add_url_rule("/metrics", "metrics", views.metrics)
    app.url_value_preprocessor(_check_address)
    app.before_request(Guard(settings, hosts, read_only).check)
    app.after_request(_finish)
    app.register_error_handler(Exception, _as_json)
    return app


class _Views(threading.local):  # each thread has a link of its own
    """What stands in for rq-dashboard's views, by their names."""

    asks_redis = threading.BoundedSemaphore(READY_AT_ONCE)

    def __init__(self, settings: Settings, read_only: bool) -> None:
        self.link, self.read_only = link(settings), read_only

    def readyz(self) -> Response:
        if not self.asks_redis.acquire(blocking=False):
            raise RedisUnavailable("others are waiting for Redis's answer already")
        try:
            self.link.call("PING")
        finally:
            self.asks_redis.release()
        return _plain("ok\n")

    def metrics(self) -> Response:
        return _plain(status.metrics(self.link))

    def queues_overview(self) -> str:
        return self._page("queues")

    def workers_overview(self) -> str:
        return self._page("workers")

    def jobs_overview(self, queue_name: str | None, **place: Any) -> str:
        queues = [{"name": name} for name in actions.queues(self.link)]
        return self._page("jobs", queues=queues, queue={"name": queue_name or "default"}, **place)

    def job_view(self, job_id: str) -> str:
        show.page(self.link, job_id)  # raises NoSuchJob
        return self._page("job", id=job_id)

    def list_queues(self) -> Response:
        rows = []
        for name, sizes in show.sizes(self.link, actions.queues(self.link)).items():
            place = {"queue_name": name, "per_page": 8, "order": "asc", "page": 1}
            urls = {f"{own}_url": _list_url(registry_name=own, **place) for own in sizes}
            counts = {f"{own}_job_registry_count": count for own, count in sizes.items()}
            rows.append({"name": name, "count": sizes["queued"], **counts, **urls})
        return jsonify(queues=rows)

    def list_jobs(self, page: int, per_page: int, order: str, **where: str) -> Response:
        own = (where["queue_name"], where["registry_name"], (page - 1) * per_page, per_page)
        total, rows = show.rows(self.link, *own, last_first=order == "dsc")
        last = -(-total // per_page)

        def at(number: int) -> dict[str, Any]:
            url = _list_url(page=max(1, number), per_page=per_page, order=order, **where)
            return {"number": number, "url": url}

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
        calls = show.calls(self.link, [own.job for own in workers if own.job])
        rows = [
            {
                **own._asdict(),
                "hostname": own.host,
                "status": own.state,  # rq-dashboard's script writes over the other
                "bad": own.state in ("stale", "hung"),
                "beat": f"{own.beat_s:.0f} s ago",
                "successful_job_count": own.done,
                "failed_job_count": own.failed,
                "current_job": {"job_id": own.job, "call_string": calls[own.job]}
                if own.job
                else "idle",
            }
            for own in workers
        ]
        return jsonify(workers=rows)

    def requeue_job_view(self, job_id: str) -> Response:
        return self._changed(actions.act(self.link, "retry", [job_id]), "not among the failed")

    def requeue_all(self, queue_name: str) -> Response:
        if request.method != "POST":  # the one change that they allow by a GET
            abort(405, "POST: it changes something")
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

    def _page(self, name: str, **facts: Any) -> str:
        return render_template(
            f"rq_dashboard/{name}.html",
            active_tab=name,
            current_instance=0,
            instance_list=[self.link.where],
            rq_url_prefix=url_for("rq_dashboard.queues_overview"),
            rq_dashboard_version=web.rq_dashboard_version,
            rq_version=RQ_VERSION,
            enable_delete=not self.read_only,
            url_for=addresses.url_for,
            **facts,
        )

    def _changed(self, outcomes: Iterator[tuple[str, str]], otherwise: str) -> Response:
        ((job_id, outcome),) = outcomes
        if outcome == "gone":
            raise NoSuchJob(f"no job {job_id}: deleted or expired")
        if outcome not in ("retried", "limited", "deleted"):
            abort(409, f"job {job_id} is {otherwise}")
        return jsonify(status="OK")


def _list_url(**place: Any) -> str:
    return addresses.url_for("rq_dashboard.jobs_overview", instance_number=0, **place)


def _check_address(_: str | None, values: dict[str, Any] | None) -> None:
    """Check and convert what is in an address, and take the number of a Redis server out of it."""
    if not values:
        return
    if "queue_name" in values:
        values["queue_name"] = request.args.get(addresses.QUEUE, values["queue_name"])
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


def _as_json(error: Exception) -> tuple[Response, int]:
    """Return an error as the pages show it."""
    if isinstance(error, HTTPException):
        code, said = error.code or 500, error.description
    elif isinstance(error, WerkError):
        is_away = isinstance(error, (RedisUnavailable, ConfigError))
        code, said = 503 if is_away else 404, str(error)
    else:
        log.error("event=error path=%r", request.path, exc_info=error)
        code, said = 500, f"{type(error).__name__}; its traceback is in the dashboard's log"
    return jsonify(error=said), code


def _plain(text: str) -> Response:
    return Response(text, mimetype="text/plain")
