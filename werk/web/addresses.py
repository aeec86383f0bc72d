"""Names of queues in the dashboard's addresses and scripts: any name leads back to its queue.

A browser resolves .. in an address, and a proxy decodes %2F or %5C, so a name with one of these
goes into the query. (inline_js.html does the same.) Typed into the path, it is routed as well.
"""

from __future__ import annotations

import re
from typing import Any

import flask
from flask import Flask
from flask.templating import DispatchingJinjaLoader
from jinja2 import Environment
from werkzeug.routing import BaseConverter

QUEUE = "queue"  # the parameter in the query; the path then has "-" in its place
UNSAFE = re.compile(r"\.{0,2}|.*[/\\].*", re.DOTALL)
IN_QUOTES = "'{{ queue.name }}'"  # in rq-dashboard's jobs.js


def url_for(endpoint: str, **values: Any) -> str:
    """Return the address of a page or an action; replaces Flask's url_for."""
    name = values.get("queue_name")
    if name is not None and UNSAFE.fullmatch(name):
        values |= {"queue_name": "-", QUEUE: name}
    return flask.url_for(endpoint, **values)


def take_any_name(app: Flask) -> None:
    """Route names with a slash like other names, and write names as JSON in scripts."""
    app.jinja_env.loader = Templates(app)
    app.url_map.converters["any_name"] = AnyName
    for rule in [*app.url_map.iter_rules()]:
        path = re.sub("<(queue_name|job_id)>", r"<any_name:\1>", rule.rule)
        if path != rule.rule:
            app.add_url_rule(path, rule.endpoint, methods=rule.methods)


class AnyName(BaseConverter):
    """A part of an address, which may have slashes."""

    regex = "(?s:.+?)"
    part_isolating = False
    weight = 200


class Templates(DispatchingJinjaLoader):
    """rq-dashboard's templates, with the queue's name as JSON where a script puts it in quotes."""

    def get_source(self, environment: Environment, template: str) -> Any:
        text, *others = super().get_source(environment, template)
        return text.replace(IN_QUOTES, "{{ queue.name|tojson }}"), *others
