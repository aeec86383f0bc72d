"""The endpoints. They import no task: a job is enqueued by its name."""

from typing import Any

from flask import Flask, request

import werk

Answer = tuple[dict[str, Any], int]

app = Flask(__name__)
app.config.update(THUMBNAILS="/thumbnails")


@app.errorhandler(werk.ArgumentError)
def invalid(error: werk.ArgumentError) -> Answer:
    return {"error": str(error)}, 422


@app.errorhandler(werk.JobIdConflict)
def conflict(error: werk.JobIdConflict) -> Answer:
    return {"error": str(error)}, 409


@app.errorhandler(werk.RedisUnavailable)
def unavailable(error: werk.RedisUnavailable) -> tuple[dict[str, Any], int, dict[str, str]]:
    return {"error": "try again later"}, 503, {"Retry-After": "5"}


@app.post("/pictures/<picture>/thumbnail")
def thumbnail(picture: str) -> Answer:
    body = request.get_json()
    if not isinstance(body, dict):
        return {"error": "the body must be a JSON object"}, 422
    width = body.get("width", 320)  # werk checks it by the task's annotation
    job = werk.enqueue("thumbnail", picture, width, options=werk.Options(unless_active=True))
    return {"job": job.id, "duplicate": job.duplicate}, 202


@app.get("/jobs/<job_id>")
def job(job_id: str) -> Answer:
    try:
        return {"status": "finished", "result": werk.result(job_id, timeout=0)}, 200
    except werk.ResultTimeout:
        return {"status": "unfinished"}, 202
    except werk.NoSuchJob:
        return {"error": "no such job"}, 404
    except werk.JobFailed as error:
        return {"status": "failed", "reason": str(error)}, 500
