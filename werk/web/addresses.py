"""Names of queues in the dashboard's addresses and scripts: whatever is in them, they lead back.

A browser resolves .. in an address, and a proxy takes %2F or %5C apart, so such a name goes into
the query. (inline_js.html does the same.) Where somebody types one into the path it is routed, too.
"""

from __future__ import annotations

import re
from typing import Any

import flask
from flask import Flask
from flask.templating import DispatchingJinjaLoader
from jinja2 import Environment
from werkzeug.routing import BaseConverter

QUEUE = "queue"  # the name in the query; "-" is in its place in the path
UNSAFE = re.compile(r"\.{0,2}|.*[/\\].*", re.DOTALL)
IN_QUOTES = "'{{ queue.name }}'"  # in rq-dashboard's jobs.js


def url_for(endpoint: str, **values: Any) -> str:
    """Return the address of a page or an action, in place of Flask's own."""
    name = values.get("queue_name")
    if name is not None and UNSAFE.fullmatch(name):
        values |= {"queue_name": "-", QUEUE: name}
    return flask.url_for(endpoint, **values)


def take_any_name(app: Flask) -> None:
    """Route names with a slash like the others, and write them as JSON in scripts."""
    app.jinja_env.loader = Templates(app)
    app.url_map.converters["any_name"] = AnyName
    for rule in [*app.url_map.iter_rules()]:
        path = re.sub("<(queue_name|job_id)>", r"<any_name:\1>", rule.rule)
        if path != rule.rule:
            app.add_url_rule(path, rule.endpoint, methods=rule.methods)


class AnyName(BaseConverter):
    """A part of an address, also one with slashes."""

    regex = "(?s:.+?)"
    part_isolating = False
    weight = 200


class Templates(DispatchingJinjaLoader):
    """rq-dashboard's templates; in one script of them a queue's name stands between quotes."""

    def get_source(self, environment: Environment, template: str) -> Any:
        text, *others = super().get_source(environment, template)
        return text.replace(IN_QUOTES, "{{ queue.name|tojson }}"), *others
