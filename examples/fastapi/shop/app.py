"""The endpoints. FastAPI runs plain functions in threads; `async def` ones use werk.aio."""

from datetime import date
from decimal import Decimal
from typing import Any

from fastapi import FastAPI, HTTPException, Request, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel

import werk
import werk.aio

app = FastAPI()


class Order(BaseModel):
    number: int
    total: Decimal
    email: str


class Refund(BaseModel):
    amount: Decimal
    card: str


@app.exception_handler(werk.ArgumentError)
def invalid(request: Request, error: werk.ArgumentError) -> JSONResponse:
    return JSONResponse({"detail": str(error)}, 422)


@app.exception_handler(werk.JobIdConflict)
def conflict(request: Request, error: werk.JobIdConflict) -> JSONResponse:
    return JSONResponse({"detail": str(error)}, 409)


@app.exception_handler(werk.RedisUnavailable)
def unavailable(request: Request, error: werk.RedisUnavailable) -> JSONResponse:
    return JSONResponse({"detail": "try again later"}, 503, {"Retry-After": "5"})


@app.post("/orders", status_code=202)
def order(order: Order) -> dict[str, Any]:
    once = werk.Options(job_id=f"receipt-{order.number}")
    job = werk.enqueue("receipt", order.number, order.total, email=order.email, options=once)
    return {"job": job.id, "duplicate": job.duplicate}


@app.post("/orders/{number}/refund", status_code=202)
def refund(number: int, refund: Refund) -> dict[str, Any]:
    later = werk.Options(delay=24 * 3600)  # a refund can be cancelled for a day
    job = werk.enqueue("refund", number, refund.amount, card=refund.card, options=later)
    return {"job": job.id}


@app.post("/newsletters", status_code=202)
def newsletter(subject: str, addresses: list[str]) -> dict[str, Any]:
    calls = [{"address": address, "subject": subject} for address in addresses]
    return {"jobs": [job.id for job in werk.enqueue_many("newsletter", calls)]}


@app.post("/reports/{month}", status_code=202)
def report(month: date) -> dict[str, Any]:
    job = werk.enqueue("report", month, options=werk.Options(unless_active=True))
    return {"job": job.id, "duplicate": job.duplicate}


@app.post("/prices", status_code=202)
async def prices(names: list[str]) -> dict[str, Any]:
    job = await werk.aio.enqueue("prices", *names)
    return {"job": job.id}


@app.get("/jobs/{job_id}")
def job(job_id: str, response: Response) -> dict[str, Any]:
    try:
        return {"status": "finished", "result": werk.result(job_id, timeout=0)}
    except werk.ResultTimeout:
        response.status_code = 202
        return {"status": "unfinished"}
    except werk.JobFailed as error:
        response.status_code = 500
        return {"status": "failed", "reason": str(error)}
    except werk.NoSuchJob:
        raise HTTPException(404, "no such job") from None
