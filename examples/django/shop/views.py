"""The views. They import no task: a job is enqueued by its name."""

from django.db import transaction
from django.http import HttpRequest, JsonResponse
from django.views.decorators.http import require_POST

import werk
from shop.models import Order
from werk.contrib.django import enqueue_on_commit


class Unavailable:
    """Middleware: answer 503 if Redis is unreachable, and 422 to wrong arguments."""

    def __init__(self, get_response) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest):
        return self.get_response(request)

    def process_exception(self, request: HttpRequest, error: Exception) -> JsonResponse | None:
        if isinstance(error, werk.RedisUnavailable):
            again = {"Retry-After": "5"}
            return JsonResponse({"error": "try again later"}, status=503, headers=again)
        if isinstance(error, werk.ArgumentError):
            return JsonResponse({"error": str(error)}, status=422)
        return None


@require_POST
def order(request: HttpRequest) -> JsonResponse:
    email = request.POST.get("email")
    if not email:
        return JsonResponse({"error": "the form has no email"}, status=422)
    with transaction.atomic():
        order = Order.objects.create(email=email)
        once = werk.Options(job_id=f"receipt-{order.pk}")
        job_id = enqueue_on_commit("receipt", order.pk, options=once)
    return JsonResponse({"job": job_id}, status=202)


def job(request: HttpRequest, job_id: str) -> JsonResponse:
    try:
        return JsonResponse({"status": "finished", "result": werk.result(job_id, timeout=0)})
    except werk.ResultTimeout:
        return JsonResponse({"status": "unfinished"}, status=202)
    except werk.NoSuchJob:
        return JsonResponse({"error": "no such job"}, status=404)
    except werk.JobFailed as error:
        return JsonResponse({"status": "failed", "reason": str(error)}, status=500)
