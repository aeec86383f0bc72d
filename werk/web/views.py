"""The pages of the dashboard and the data that their scripts ask for.

Each method of Views replaces the view of rq-dashboard with the same name: rq-dashboard's views
unpickle what they show, and change things on a GET.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

from flask import Response, abort, jsonify, render_template, request
from rq_dashboard import web

from werk.errors import NoSuchJob
from werk.ops import actions, bulk, job_view
from werk.ops.jobs import Query
from werk.ops.queues import queue_names
from werk.ops.snapshot import Snapshot
from werk.settings import Settings
from werk.store.connection import link
from werk.web import addresses
from werk.web.pages import long_request

MOST_ROWS = 200  # on a page: the maximum of its input field
LAST_PAGE = 10**9


class Views(threading.local):  # so that each thread has its own link
    """The views, by rq-dashboard's names for them."""

    def __init__(self, settings: Settings, read_only: bool) -> None:
        self.link, self.read_only = link(settings), read_only

    def queues_overview(self) -> str:
        return self._page("queues")

    def workers_overview(self) -> str:
        return self._page("workers")

    def jobs_overview(self, queue_name: str | None, **place: Any) -> str:
        queues = [{"name": name} for name in queue_names(self.link)]
        return self._page("jobs", queues=queues, queue={"name": queue_name or "default"}, **place)

    def job_view(self, job_id: str) -> str:
        job_view.page(self.link, job_id)  # raises NoSuchJob
        return self._page("job", id=job_id)

    def list_queues(self) -> Response:
        rows = []
        for name, sizes in job_view.sizes(self.link, queue_names(self.link)).items():
            place = {"queue_name": name, "per_page": 8, "order": "asc", "page": 1}
            urls = {f"{own}_url": _list_url(registry_name=own, **place) for own in sizes}
            counts = {f"{own}_job_registry_count": count for own, count in sizes.items()}
            rows.append({"name": name, "count": sizes["queued"], **counts, **urls})
        return jsonify(queues=rows)

    def list_jobs(self, page: int, per_page: int, order: str, **where: str) -> Response:
        own = (where["queue_name"], where["registry_name"], (page - 1) * per_page, per_page)
        total, rows = job_view.rows(self.link, *own, last_first=order == "dsc")
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
        return jsonify(job_view.page(self.link, job_id))

    def list_workers(self) -> Response:
        workers = Snapshot.read(self.link).workers
        slots = [(slot, own.successor) for own in workers for slot in own.slots]
        calls = job_view.calls(self.link, [own.job for own, _ in slots if own.job])
        rows = [
            {
                **own._asdict(),
                "hostname": own.host,
                "status": own.state,  # rq-dashboard's script overwrites the field `state`
                "bad": own.state in ("stale", "hung") and not successor,
                "beat": f"{own.beat_s:.0f} s ago",
                "successful_job_count": own.done,
                "failed_job_count": own.failed,
                "current_job": {"job_id": own.job, "call_string": calls[own.job]}
                if own.job
                else "idle",
            }
            for own, successor in slots
        ]
        return jsonify(workers=rows)

    def requeue_job_view(self, job_id: str) -> Response:
        return self._changed(actions.act(self.link, "retry", [job_id]), "not failed")

    def requeue_all(self, queue_name: str) -> Response:
        if request.method != "POST":  # rq-dashboard allows this one change by a GET
            abort(405, "use POST: this changes jobs")
        with long_request():
            done = bulk.act_on(self.link, "retry", Query(("failed",), queue_name))
        return jsonify(status="OK", count=done)

    def delete_job_view(self, job_id: str) -> Response:
        return self._changed(actions.act(self.link, "delete", [job_id]), "running; stop it first")

    def empty_queue(self, queue_name: str, registry_name: str) -> Response:
        if registry_name == "started":
            abort(409, "running jobs cannot be deleted; stop them first")
        with long_request():
            count = actions.empty(self.link, job_view.PLACES[registry_name], queue_name)
        return jsonify(status="OK", count=count)

    def compact_queue(self, queue_name: str) -> Response:
        with long_request():
            actions.compact(self.link, queue_name)
        return jsonify(status="OK")

    def _page(self, name: str, **facts: Any) -> str:
        return render_template(
            f"rq_dashboard/{name}.html",
            active_tab=name,
            where=self.link.where,
            current_instance=0,
            rq_url_prefix="/",
            enable_delete=not self.read_only,
            url_for=addresses.url_for,
            **facts,
        )

    def _changed(self, outcomes: Iterator[tuple[str, str]], otherwise: str) -> Response:
        ((job_id, outcome),) = outcomes
        if outcome == "gone":
            raise NoSuchJob(f"no job {job_id}: deleted or expired")
        if outcome not in ("retried", "limited", "deleted"):
            abort(409, f"job {job_id} is {actions.stuck('retry', outcome) or otherwise}")
        return jsonify(status="OK")


def _list_url(**place: Any) -> str:
    return addresses.url_for("rq_dashboard.jobs_overview", instance_number=0, **place)


def check_address() -> None:
    """Check and convert the values in an address; remove the number of the Redis server."""
    values = request.view_args
    if not values:
        return
    if "queue_name" in values:
        values["queue_name"] = request.args.get(addresses.QUEUE, values["queue_name"])
    if values.pop("instance_number", 0):
        abort(404, "a dashboard has one Redis, number 0")
    if values.get("registry_name", "queued") not in job_view.PLACES:
        abort(404, f"unknown registry; use one of {', '.join(job_view.PLACES)}")
    for name, most in {"per_page": MOST_ROWS, "page": LAST_PAGE}.items():
        if name in values:
            if not str(values[name]).isdecimal():
                abort(404, f"{name} must be a number")
            values[name] = min(max(1, int(str(values[name])[:10])), most)
