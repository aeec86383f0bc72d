"""`werk dashboard`: werk's pages, and rq-dashboard's in the same app, safe to leave open.

pages.py has the pages for people on call. Of rq-dashboard the templates, scripts, styles and
addresses are used, but none of its views: see views.py. guard.py decides who may ask; api.py
answers machines.
"""

from __future__ import annotations

import logging
import re
import signal
from collections.abc import Collection
from contextlib import suppress

from flask import Blueprint, Flask, Response, g, jsonify, render_template, request
from rq.version import VERSION as RQ_VERSION
from rq_dashboard import web
from werkzeug.exceptions import HTTPException

from werk import __version__
from werk.errors import (
    ArgumentError,
    ConfigError,
    JobIdConflict,
    NoWorker,
    RedisUnavailable,
    ResultTimeout,
    WerkError,
)
from werk.insistence import insisting
from werk.log_format import Event, log_to_stderr
from werk.ops.numbers import age
from werk.settings import Settings
from werk.store.connection import link
from werk.store.error_group import filter_of
from werk.web import addresses
from werk.web.api import Api
from werk.web.guard import Guard
from werk.web.http_server import listen
from werk.web.page_actions import NAMES, PageActions
from werk.web.pages import Pages, shown_seconds
from werk.web.rates import Rates
from werk.web.views import Views, check_address

AGAIN_S = 4  # between two tries to end the dashboard
LOOPBACK_BIND = re.compile(r"localhost|::1|127(\.\d+){3}")

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

# Our pages have no inline scripts and no inline styles.
STRICT = "script-src 'self'; style-src 'self'; default-src 'self'; img-src 'self' data:; "
STRICT += "object-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
STRICT += "script-src-attr 'none'"

CODES: dict[type[WerkError], int] = {  # HTTP status by error; any other WerkError is a 404
    WerkError: 409,
    ArgumentError: 422,
    ConfigError: 503,
    JobIdConflict: 409,
    NoWorker: 503,
    RedisUnavailable: 503,
    ResultTimeout: 504,
}

log = logging.getLogger(__name__)


class Answer(Response):
    """A response that any text can be sent in: half a character is escaped."""

    def set_data(self, value: bytes | str) -> None:
        if isinstance(value, str):
            value = value.encode("utf-8", "backslashreplace")
        super().set_data(value)


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
        what = f"dashboard: cannot listen on port {port} of {bind}: {why}"
        raise ConfigError(f"{what}; choose others with --port and --bind") from None
    signal.signal(signal.SIGTERM, insisting(KeyboardInterrupt(), AGAIN_S))
    log_to_stderr()
    address = f"http://{f'[{bind}]' if ':' in bind else bind}:{port}"
    with suppress(KeyboardInterrupt):  # waitress ends by itself only while it waits
        log.info(Event("serving", address=address, redis=link(settings).where))
        server.run()
    signal.alarm(0)
    return 0


def make_app(settings: Settings, *, hosts: Collection[str] = (), read_only: bool = False) -> Flask:
    """Return the WSGI app. It connects to Redis when a request needs it. Raises ConfigError."""
    app = Flask(__name__, static_folder=f"{web.blueprint.root_path}/static")
    app.response_class = Answer
    app.jinja_options = {"autoescape": True}  # in scripts too
    app.jinja_env.filters |= {"age": age, "seconds": shown_seconds, "filter_of": filter_of}
    app.context_processor(_versions)
    app.url_map.redirect_defaults = False  # /0/view/queues is not another name of /
    app.register_blueprint(_pages(settings, read_only))  # first: / is its page
    app.register_blueprint(web.blueprint)
    addresses.take_any_name(app)
    app.before_request_funcs.pop(web.blueprint.name)  # it would connect for each request
    views, api = Views(settings, read_only), Api(settings)
    for name in app.view_functions:
        owner, _, view = name.partition(".")
        if owner == web.blueprint.name and view not in ("static", "favicon"):
            app.view_functions[name] = getattr(views, view)
    app.add_url_rule("/healthz", "healthz", api.healthz)
    app.add_url_rule("/readyz", "readyz", api.readyz)
    app.add_url_rule("/metrics", "metrics", api.metrics)
    app.add_url_rule("/api/tasks/<any_name:task>", "enqueue", api.enqueue, methods=["POST"])
    for path in ("/api/tasks", "/api/tasks/"):
        app.add_url_rule(path, "no_task", api.no_task, methods=["GET", "POST"])
    app.before_request(Guard(settings, hosts, read_only).check)
    app.before_request(check_address)
    app.after_request(_finish)
    app.register_error_handler(Exception, _shown)
    return app


def _pages(settings: Settings, read_only: bool) -> Blueprint:
    """Return werk's own pages, and what their buttons do."""
    own = Blueprint("werk", __name__, static_folder="static", static_url_path="/werk")
    pages, actions = Pages(settings, read_only, Rates()), PageActions(settings)
    own.add_url_rule("/", "overview", pages.overview)
    own.add_url_rule("/failures", "failures", pages.failures)
    own.add_url_rule("/jobs", "jobs", pages.jobs)
    own.add_url_rule("/jobs/groups", "job_groups", pages.job_groups)
    own.add_url_rule("/jobs/count/<action>", "count", pages.count)
    own.add_url_rule("/tasks", "tasks", pages.tasks)
    own.add_url_rule("/cron", "cron", pages.cron)
    for name in NAMES:
        own.add_url_rule(f"/actions/{name}", name, getattr(actions, name), methods=["POST"])
    return own


def _versions() -> dict[str, str]:
    """Return what each template may show: nothing to somebody who may not ask for pages."""
    if not g.get("may_ask"):
        return {"versions": ""}
    found = f"werk {__version__}, RQ {RQ_VERSION}"
    return {"versions": f"{found}, rq-dashboard {web.rq_dashboard_version}"}


def _finish(response: Response) -> Response:
    if request.blueprint != web.blueprint.name or response.status_code >= 400:
        response.headers["Content-Security-Policy"] = STRICT
    for name, value in HEADERS.items():
        response.headers.setdefault(name, value)  # scripts and styles have their own Cache-Control
    if request.method == "POST":
        log.info(Event("asked", path=request.path, status=response.status_code))
    return response


def _shown(error: Exception) -> tuple[Response | str, int, dict[str, str]]:
    """Return an error as a page for people, or as JSON for scripts and other programs."""
    response, code, headers = _as_json(error)
    kinds = ("application/json", "text/html")
    is_data = re.match(r"/(api|actions|jobs/count)/|.*\.json$", request.path)
    if is_data or request.accept_mimetypes.best_match(kinds) != kinds[1]:
        return response, code, headers
    text = response.get_json()["error"]
    return render_template("werk/error.html", error=text, code=code), code, headers


def _as_json(error: Exception) -> tuple[Response, int, dict[str, str]]:
    """Return an error as the pages and other programs read it."""
    allowed = ", ".join(sorted(getattr(error, "valid_methods", None) or ()))  # with 405
    if allowed:
        code, text = 405, f"{request.method} is not allowed here; use {allowed}"
    elif isinstance(error, HTTPException):
        code, text = error.code or 500, str(error.description)
    elif isinstance(error, WerkError):
        code, text = CODES.get(type(error), 404), str(error)
    else:
        log.error(Event("error", path=request.path), exc_info=error)
        code, text = 500, f"{type(error).__name__}; its traceback is in the dashboard's log"
    return jsonify(error=text), code, {"Allow": allowed} if allowed else {}
