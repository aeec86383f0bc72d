"""Values that others may have written into a record, and the fields of a job."""

from __future__ import annotations

VALUES = [
    b"", b"0", b"-1", b"1", b"7", b"1.5", b" 7", b"0x10", b"1e30", b"-1e30", b"9" * 30, b"9" * 400,
    b"nan", b"inf", b"-inf", b"1e400", b"9223372036854775807", b"-9223372036854775808", b"x" * 300,
    b"queued", b"started", b"scheduled", b"finished", b"failed", b"canceled", b"high", b"low",
    b"nowhere", b"x:h1", b"\xff\xfe\x00", b"\n:|{}", b"before|99999999999999999999", b"{", b"[]",
    b"2001-01-01T00:00:00.000000Z", b"pair.work", b"%s%n*", b" ", b":", b"None", b"w0", b"dead",
]  # fmt: skip
FIELDS = (
    "status origin timeout result_ttl failure_ttl ttl enqueued_at created_at started_at ended_at"
    " data description werk_task werk_attempt werk_crashes werk_max_crashes werk_v werk_call"
    " retries_left retry_intervals repeats_left repeat_intervals worker_name last_heartbeat meta"
    " group_id success_callback_name failure_callback_name stopped_callback_name"
    " success_callback_timeout failure_callback_timeout rate_limit_key rate_limit_concurrency"
    " webhooks dependency_ids enqueue_at_front enqueue_at_front_on_retry number_of_retries exc_info"
).split()
