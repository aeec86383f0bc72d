"""The verdict of `bin/chaos` must not see what is not there, nor excuse what it should not."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from chaos import report
from chaos.causes import BY_OPERATOR, LEASE_S, LONG_ABSENCES, RETRIED, Causes
from chaos.faults import KINDS
from chaos.history import History
from chaos.kinds import KINDS as JOBS
from chaos.leaks import leaks
from chaos.places import Contents, Job, Result
from chaos.prober import Sample, Uptime
from chaos.records import Act, Call, CallLog, Calm, Execution, Fault, read_call_log
from chaos.verdict import CATEGORIES, Verdict

HORSE, SUPERVISOR = 11, 10
OTHERS = (21, 20)


def run(
    start: float,
    end: float | None = None,
    last: float | None = None,
    *,
    by=(HORSE, SUPERVISOR),
    token="c0-1-plain",
    raised=False,
):
    """An execution, by the worker that the faults here hit unless said otherwise."""
    return Execution(
        token, f"{by}{start}", *by, start=start, last=last or end or start, end=end, raised=raised
    )


def fault(kind: str, begin: float, end: float | None = None, target: str = "worker0"):
    """A fault of the worker, written down as monkey.py does."""
    hits_horse = "supervisor" not in kind
    hits_supervisor = "horse" not in kind
    return Fault(
        kind,
        target,
        begin,
        begin if end is None else end,
        supervisor=SUPERVISOR if hits_supervisor and target != "server" else None,
        horses=frozenset([HORSE] if hits_horse and target != "server" else ()),
    )


def cause(faults, *runs):
    """What explains the last of these executions of one job."""
    return Causes(faults, runs).of_reruns(sorted(runs, key=lambda each: each.start))[-1][1]


@pytest.mark.parametrize(
    "kind", ["kill -9 horse", "kill -9 supervisor", "kill -9 both", "TERM twice"]
)
def test_a_crash_explains_one_more_run_of_what_it_interrupted(kind):
    crash = fault(kind, 101)
    assert cause([crash], run(100, last=101), run(102, 103, by=OTHERS)) is crash
    assert cause([crash], run(100, last=101), run(102, 103), run(104, 105)) is None
    assert cause([crash], run(100, 100.5, by=OTHERS), run(102, 103)) is None  # was not hit
    assert cause([crash], run(102, 103), run(104, 105)) is None  # nor was this


NEIGHBOUR = (12, SUPERVISOR)


def test_a_crash_of_one_horse_explains_nothing_of_its_neighbours():
    killed = fault("kill -9 horse", 101)
    assert cause([killed], run(100, last=101, by=NEIGHBOUR), run(101.1, 102)) is None
    assert cause([killed], run(100, last=101), run(101.1, 102, by=NEIGHBOUR)) is killed
    frozen = fault("freeze horse, long", 101, 120)
    assert cause([frozen], run(100, 121, by=NEIGHBOUR), run(117, 118)) is None


@pytest.mark.parametrize("kind", ["kill -9 supervisor", "kill -9 both"])
def test_a_crash_of_a_supervisor_explains_a_run_of_what_each_horse_had_in_hand(kind):
    killed = fault(kind, 101)
    jobs = {"a": (HORSE, SUPERVISOR), "b": NEIGHBOUR}
    first = [run(100, last=101, by=by, token=token) for token, by in jobs.items()]
    again = [run(116, 117, by=OTHERS, token=token) for token in jobs]
    done = run(90, 91, by=NEIGHBOUR, token="c")  # before the horse went on to b
    causes = Causes([killed], [*first, *again, done])
    for runs in zip(first, again, strict=True):
        assert causes.of_reruns(runs) == [(runs[1], killed, runs[0])]
    assert causes.of_reruns([done, run(116, 117, by=OTHERS, token="c")])[0][1] is None


def test_a_job_that_a_horse_begins_as_an_orphan_is_its_supervisors():
    killed = Fault("kill -9 supervisor", "worker0", 101, 101, supervisor=SUPERVISOR)
    orphan = run(101.01, last=101.02, by=(HORSE, 1))
    assert cause([killed], orphan, run(116, 117, by=OTHERS)) is None
    killed.horses = frozenset({HORSE, NEIGHBOUR[0]})
    assert cause([killed], orphan, run(116, 117, by=OTHERS)) is killed


def test_a_second_term_explains_only_what_the_horses_that_were_left_had_in_hand():
    twice = Fault("TERM twice", "worker0", 101, 101, horses=frozenset({HORSE}))
    again = run(102, 103, by=OTHERS)
    assert cause([twice], run(100, last=101), again) is twice
    assert cause([twice], run(100, 100.9, by=NEIGHBOUR), again) is None  # it had left before


def test_a_drain_of_one_slot_explains_nothing():
    drained = Fault("drain one slot", "worker0", 101, 101, note="worker0.1.2")
    assert cause([drained], run(100, last=101), run(101.1, 102, by=OTHERS)) is None
    assert cause([drained], run(100, last=101), run(117, 118, by=OTHERS)) is None


def test_a_horse_may_begin_one_more_job_in_the_moment_that_it_outlives_its_supervisor():
    killed = fault("kill -9 supervisor", 1)
    again = run(18, 19, by=OTHERS)
    assert cause([killed], run(1.01, last=1.01), again) is killed
    assert cause([killed], run(1.5, last=1.5), again) is None
    assert cause([killed], run(0.5, 1.0), run(1.01, last=1.01), run(18, 19, by=OTHERS)) is killed


def test_a_crash_explains_nothing_that_was_long_recorded():
    crash = fault("kill -9 both", 110)
    assert cause([crash], run(100, 101), run(111, 112, by=OTHERS)) is None
    assert cause([crash], run(100, 109.9), run(111, 112, by=OTHERS)) is crash
    pause = fault("pause Redis, long", 100, 109.5, target="server")  # it could not be recorded
    assert cause([crash, pause], run(100, 101), run(111, 112, by=OTHERS)) is crash
    full = fault("maxmemory", 100.5, 109.5, target="server")
    assert cause([crash, full], run(100, 101), run(111, 112, by=OTHERS)) is crash
    assert cause([full], run(100, 101), run(111, 112, by=OTHERS)) is None
    later = run(102, 103, token="c0-2-plain")  # the horse went on, so it was
    known = Causes([crash, pause], [run(100, 101), later])
    assert known.cause(run(100, 101), run(111, 112, by=OTHERS)) is None


@pytest.mark.parametrize(
    ("kind", "target"),
    [
        ("freeze horse, short", "worker0"),
        ("freeze horse, long", "worker0"),
        ("freeze supervisor, short", "worker0"),
        ("freeze both, short", "worker0"),
        ("TERM supervisor", "worker0"),
        ("cut a worker's reply", "worker0"),
        ("cut a worker's request", "worker0"),
        ("a worker's output unread", "worker0"),
        ("a worker's clock 3600 s ahead", "worker0"),
        ("drain", "worker0"),
        ("kill -9 server", "server"),
        ("pause Redis, long", "server"),
        ("stalls in a row", "server"),
        ("maxmemory", "server"),
        ("client kill", "server"),
        ("script flush", "server"),
    ],
)
def test_what_must_not_cause_a_run_explains_none(kind, target):
    assert (
        cause([fault(kind, 101, 120, target)], run(100, last=101), run(117, 118, by=OTHERS)) is None
    )


@pytest.mark.parametrize("kind", LONG_ABSENCES)
def test_absence_for_longer_than_a_lease_explains_a_run_and_an_overlap(kind):
    absence = fault(kind, 101, 120)
    first, again = run(100, 121), run(101 + LEASE_S, 118, by=OTHERS)
    causes = Causes([absence], [first, again])
    assert causes.of_reruns([first, again]) == [(again, absence, first)]
    assert causes.of_overlaps([first, again]) == [(first, again, absence)]


def test_absence_explains_nothing_before_the_lease_is_over():
    absence = fault("freeze both, long", 101, 120)
    assert cause([absence], run(100, 121), run(110, 111, by=OTHERS)) is None


@pytest.mark.parametrize(
    ("kind", "target", "explains"),
    [
        ("freeze supervisor, short", "worker0", True),
        ("kill -9 server", "server", True),
        ("freeze horse, short", "worker0", False),  # its supervisor ticks
        ("cut a worker's reply", "worker0", False),  # and ticks again
    ],
)
def test_absences_that_follow_each_other_are_one(kind, target, explains):
    faults = [fault("cut off from Redis, long", 101, 120), fault(kind, 98, 100.5, target)]
    first, again = run(99, 100.9), run(98 + LEASE_S, 114, by=OTHERS)
    assert cause(faults, first, again) is (faults[0] if explains else None)
    gap = [faults[0], fault(kind, 94, 97, target)]
    assert cause(gap, first, again) is None


def test_a_claim_that_was_held_back_explains_a_late_start():
    absence = fault("cut off from Redis, long", 101, 120)
    assert cause([absence], run(117, 118, by=OTHERS), run(120.1, 121)) is absence
    assert cause([absence], run(117, 118, by=OTHERS), run(130, 131)) is None
    assert cause([absence], run(110, 111, by=OTHERS), run(120.1, 121)) is None  # not rescued


def test_only_the_first_start_of_a_horse_that_is_back_is_late():
    absence = fault("cut off from Redis, long", 101, 120)
    done, again = run(117, 118, by=OTHERS), run(120.5, 121)
    other = run(120.1, 120.2, token="c0-2-plain")
    assert Causes([absence], [done, again]).of_reruns([done, again]) == [(again, absence, None)]
    assert Causes([absence], [done, other, again]).of_reruns([done, again]) == [(again, None, None)]
    other.horse = NEIGHBOUR[0]  # which had claimed a job as well
    assert Causes([absence], [done, other, again]).of_reruns([done, again]) == [
        (again, absence, None)
    ]


def test_the_horses_of_a_supervisor_that_is_frozen_alone_begin_nothing_late():
    frozen = fault("freeze supervisor, long", 101, 120)
    assert cause([frozen], run(117, 118, by=OTHERS), run(120.1, 121)) is None


def test_a_late_start_is_no_retry_of_a_failure_meanwhile():
    token = "c0-1-retried"
    absence = fault("cut off from Redis, long", 101, 120)
    failed = run(119, 119.1, token=token, raised=True, by=OTHERS)
    runs = [failed, run(120.1, 120.2, token=token), run(121.2, 122, token=token, by=OTHERS)]
    reruns = Causes([absence], runs).of_reruns(runs)
    assert [rerun.cause.kind for rerun in reruns] == [absence.kind, RETRIED]
    assert Causes([], runs).of_reruns(runs)[1][1] is None
    overlapping = [run(119, 121, by=OTHERS), run(120.1, 120.2)]
    assert Causes([absence], overlapping).of_overlaps(overlapping)[0][2] is absence


# --- the verdict


ASKED = (7200, 10800)  # result_ttl and failure_ttl
NOW = 200.0  # when Redis was read
TYPES = {"finished": "1", "failed": "2", "stopped": "2"}


def call(token="c0-1-plain", *, begin=99.0, end=99.1, answer="accepted", **more):
    """A call of a caller, acknowledged unless said otherwise."""
    sightings = more.pop("sightings", int(answer == "accepted"))
    return Call(token, "low", begin, end, value=token, answer=answer, sightings=sightings, **more)


def job(token="c0-1-plain", status="finished", places=None, *, results=None, **more):
    """A job as Redis has it in the end, well unless said otherwise."""
    places = (
        {TYPES.get(status) and ("finished" if status == "finished" else "failed")}
        if (places is None)
        else places
    )
    trace = f"Traceback (most recent call last):\nValueError: {token} has to fail"
    known = {
        "finished": [Result("1", token)],
        "failed": [Result("2", trace.rpartition("\n")[2], trace)],
        "stopped": [Result("2", "", "Job stopped by user")],
    }
    results = known.get(status, []) if results is None else results
    ttl = ASKED[status != "finished"] - 90
    facts = {"ttl": ttl, "results_ttl": ttl, "keep": ASKED, **more}
    return Job(token, status, places, results, **facts)


def verdict(calls=(), jobs=(), runs=(), *, faults=(), acts=(), **more):
    call_log = CallLog(
        {own.token: own for own in calls},
        more.pop("results", {}),
        more.pop("failures", {}),
        more.pop("impossible", []),
    )
    contents = Contents(
        {own.id: own for own in jobs}, more.pop("strays", {}), more.pop("others", {}), NOW
    )
    uptime = more.pop("uptime", Uptime([(0.0, 1000.0, True)]))
    history = History(call_log, runs, contents, faults, acts, uptime=uptime, **more)
    return Verdict(history, kinds=(), fewest_jobs=0)


def found(*args, **kwargs):
    """Return the categories in which the verdict finds something."""
    lines = verdict(*args, **kwargs).wrong
    return {line.partition(":")[0] for line in lines} - {"never enqueued"}


def ended(token="c0-1-plain", *, raised=False, **more):
    return run(100, 101, token=token, raised=raised, **more)


def failing(token="c0-1-failing"):
    return call(token), job(token, "failed"), ended(token, raised=True)


DIED = "Work-horse terminated unexpectedly; waitpid returned 9 (signal 9)"


def fragile(status, *runs, faults=(), trace=DIED):
    """What is found about a job that no crash may interrupt."""
    token = "c0-1-fragile"
    own = job(token, status, results=[Result("2", trace, trace)] if status == "failed" else None)
    runs = [run(*times, token=token, by=by) for times, by in runs]
    return found([call(token)], [own], runs, faults=faults)


def test_a_job_that_may_not_crash_fails_once_its_worker_has_died():
    killed, neighbour = fault("kill -9 horse", 100.5), ((100,), OTHERS)
    interrupted = ((100,), (HORSE, SUPERVISOR))
    assert fragile("finished", ((100, 101), OTHERS)) == set()
    assert fragile("failed", interrupted, faults=[killed]) == set()
    assert fragile("failed", faults=[fault("kill -9 both", 100.5)]) == set()  # it had not begun
    assert fragile("failed", interrupted) == {"wrong end"}
    assert fragile("failed", neighbour, faults=[killed]) == {"wrong end"}
    assert fragile("failed", interrupted, faults=[fault("freeze horse, long", 100)]) == {
        "wrong end"
    }
    assert fragile("failed", interrupted, faults=[killed], trace="Traceback") == {"results"}


@pytest.mark.parametrize(("kind", "is_one"), [
    ("kill -9 horse", True), ("kill -9 both", True), ("freeze both, long", True),
    ("TERM twice", False), ("TERM supervisor", True),
])  # fmt: skip
def test_a_job_that_may_not_crash_runs_again_only_if_it_did_not(kind, is_one):
    runs = [((100,), (HORSE, SUPERVISOR)), ((120, 121), OTHERS)]
    own = fault(kind, 100.5, 125)
    assert fragile("finished", *runs, faults=[own]) == ({"ran again"} if is_one else set())


def test_jobs_that_lose_their_worker_together_have_not_crashed():
    killed = fault("kill -9 both", 100.5)
    killed.horses = frozenset([HORSE, HORSE + 1])
    runs = [((100,), (HORSE, SUPERVISOR)), ((120, 121), OTHERS)]
    assert fragile("finished", *runs, faults=[killed]) == set()


def test_a_job_that_ran_once_and_is_in_its_place_is_well():
    assert found([call()], [job()], [ended()]) == set()
    own, its_job, its_run = failing()
    assert found([own], [its_job], [its_run]) == set()


@pytest.mark.parametrize(
    ("status", "places", "category"),
    [
        ("finished", set(), "misplaced"),
        ("finished", {"finished", "queue"}, "misplaced"),
        ("finished", {"failed"}, "misplaced"),
        ("queued", {"queue"}, "stuck"),
        ("queued", set(), "lost"),
        ("ready_to_enqueue", {"ready"}, "stuck"),
        ("rate_limited", {"rate_limited"}, "stuck"),
        ("started", {"wip", "intermediate"}, "misplaced"),
        ("failed", {"failed"}, "wrong end"),
        ("canceled", {"canceled"}, "wrong end"),
        ("stopped", {"failed"}, "wrong end"),
        ("", {"queue"}, "misplaced"),
    ],
)
def test_each_wrong_end_is_found(status, places, category):
    assert category in found([call()], [job(status=status, places=places)], [ended()])


def test_an_acknowledged_job_must_exist_and_an_unknown_one_may():
    assert found([call()], [], []) == {"lost"}
    assert found([call(answer="unknown")], [], []) == set()
    recovered = verdict([call(answer="unknown")], [job()], [ended()])
    assert recovered.ends.recovered == 1
    assert found([call(answer="unknown")], [job(status="queued", places=set())], []) >= {"lost"}
    assert found([call(answer="unknown")], [], [ended()]) == {"unexpected"}
    assert "unexpected" in found([], [job()], [ended()])
    assert found([], [], [], strays={"c0-9-plain": {"queue"}}) == {"misplaced"}


def test_a_success_needs_a_run_that_returned_and_a_failure_one_that_raised():
    assert found([call()], [job()], [run(100, last=101)]) == {"lost"}
    own, its_job, _ = failing()
    assert "wrong end" in found([own], [its_job], [ended(own.token)])


def test_callers_must_be_told_the_truth():
    assert found([call()], [job()], [ended()], results={"c0-1-plain": "other"}) == {"untrue"}
    assert found([call()], [job()], [ended()], failures={"c0-1-plain": "it failed"}) == {"untrue"}
    assert found([call()], [job()], [ended()], impossible=["wrong"]) == {"untrue"}
    parts = [[each] for each in failing()]
    for told, wrong in (
        ("JobFailed: ValueError: c0-1-failing has to fail", set()),
        ("NoSuchJob: no job c0-1-failing", {"untrue"}),
    ):
        assert found(*parts, failures={"c0-1-failing": told}) == wrong
    waiting = job(status="queued", places={"queue"})
    assert "lost" in found([call()], [waiting], [ended()], results={"c0-1-plain": "c0-1-plain"})


@pytest.mark.parametrize(
    "results",
    [
        [],
        [Result("1", "other")],
        [Result("1", "")],
        [Result("2", "x", "Traceback")],
        [Result("1", "c0-1-plain")] * 2,
    ],
)
def test_each_wrong_result_is_found(results):
    assert found([call()], [job(results=results)], [ended()]) == {"results"}


DIED = Result("4", "Its worker or host died", "Its worker or host died")


@pytest.mark.parametrize(
    ("attempts", "more", "kinds"),
    [
        ([DIED] * 9, {}, set()),
        ([DIED] * 10, {}, {"results"}),
        ([Result("4", "")], {}, {"results"}),
        ([DIED], {"results": []}, {"results"}),
        ([DIED], {"results_ttl": -1}, {"leaked"}),
    ],
)
def test_attempts_come_before_an_outcome(attempts, more, kinds):
    assert found([call()], [job(attempts=attempts, **more)], [ended()]) == kinds


def test_the_attempts_of_a_cancelled_job_expire():
    """Its record does not, as in RQ."""
    kept = job(status="canceled", places={"canceled"}, ttl=-1, attempts=[DIED], results_ttl=600)
    act = Act("cancel", "c0-1-plain", 99.2, 99.3, "cancelled")
    assert found([call()], [kept], [], acts=[act]) == set()
    kept.results_ttl = -1
    assert found([call()], [kept], [], acts=[act]) == {"leaked"}


def test_a_failure_needs_its_traceback():
    own, _, its_run = failing()
    bare = job(own.token, "failed", results=[Result("2", "killed", "killed")])
    assert found([own], [bare], [its_run]) == {"results"}


@pytest.mark.parametrize("field", ["ttl", "results_ttl"])
@pytest.mark.parametrize("ttl", [-1, ASKED[0] + 1, 60])
def test_what_never_expires_or_at_the_wrong_time_is_leaked(field, ttl):
    assert found([call()], [job(**{field: ttl})], [ended()]) == {"leaked"}


@pytest.mark.parametrize(
    ("key", "ttl", "is_leaked"),
    [
        ("rq:execution:c0-1-plain:abc", 60, True),
        ("rq:executions:c0-1-plain", 60, True),
        ("rq:worker:worker0.1:executions", -1, True),
        ("rq:queue:low:intermediate:1", -1, True),
        ("rq:results:expired", 60, True),
        ("rq:werk:anything", 10, True),
        ("rq:werk:last:0a", -1, True),
        ("rq:werk:last:0a", 10, False),
        ("rq:werk:leases", -1, False),
        ("rq:werk:hands", -1, False),
        ("rq:werk:hand:worker0.1:low", -1, True),
        ("rq:worker:worker0.1", 400, False),
        ("rq:worker:worker0.1", -1, True),
        ("rq:worker:worker0.1.3", 400, False),
        ("rq:worker:worker0.1.3", -1, True),
        ("rq:worker:worker0.1.3:executions", -1, True),
    ],
)
def test_keys_that_are_left_are_leaked_unless_that_is_documented(key, ttl, is_leaked):
    assert bool([*leaks(Contents(others={key: ttl}))]) == is_leaked


def test_callbacks_run_for_their_own_jobs_and_once_a_run():
    own, token = call("c0-1-called"), "c0-1-called"
    well = {"callbacks": Counter({(token, "on_success"): 1})}
    assert found([own], [job(token)], [ended(token)], **well) == set()
    for callbacks in ({}, {(token, "on_success"): 2}, {(token, "on_failure"): 1}):
        wrong = {"callbacks": Counter(callbacks)}
        assert found([own], [job(token)], [ended(token)], **wrong) == {"callbacks"}
    lost = [Fault("kill -9 master", "server", 100.9, 103)]  # its outcome is recorded once more
    again = {"callbacks": Counter({(token, "on_success"): 2}), "faults": lost}
    assert "callbacks" not in found([own], [job(token)], [ended(token)], **again)


def test_a_ping_may_be_lost_only_with_its_horse():
    token = "c0-1-pinging"
    parts = ([call(token)], [job(token)], [ended(token)])
    assert found(*parts, pings=Counter({token: 1})) == set()
    assert found(*parts, pings=Counter({token: 2})) == {"pings"}
    assert found(*parts) == {"pings"}
    assert found(*parts, faults=[fault("kill -9 horse", 101.02)]) == set()
    assert found(*parts, faults=[fault("TERM supervisor", 101.02)]) == {"pings"}
    assert found(*parts, faults=[fault("kill -9 horse", 110)]) == {"pings"}  # it was sent by then
    silent = fault("pause Redis, long", 100.9, 109.5, target="server")  # or it was not committed
    assert found(*parts, faults=[fault("kill -9 horse", 110), silent]) == set()
    later = ended("c0-2-plain")
    later.start, later.end = 101.01, 101.05  # the horse had gone on: the ping was sent
    calls, jobs = [*parts[0], call("c0-2-plain")], [*parts[1], job("c0-2-plain")]
    killed = [fault("kill -9 horse", 101.04)]
    assert found(calls, jobs, [*parts[2], later], faults=killed) == {"pings"}
    assert found([call()], [job()], [ended()], pings=Counter({"c0-1-plain": 1})) == {"pings"}


# --- operators


def test_an_operator_s_retry_explains_one_more_run_of_a_failed_job():
    own, its_job, first = failing()
    its_job.results *= 2
    again = run(110, 111, token=own.token, raised=True)
    act = Act("retry", own.token, 105, 105.1, "retried")
    assert found([own], [its_job], [first, again], acts=[act]) == set()
    assert "ran again" in found([own], [its_job], [first, again])
    early = Act("retry", own.token, 90, 90.1, "retried")  # before it failed
    assert "ran again" in found([own], [its_job], [first, again], acts=[early])
    third = run(120, 121, token=own.token, raised=True)
    assert "ran again" in found([own], [its_job], [first, again, third], acts=[act])
    causes = Causes([], [first, again], [act])
    assert causes.of_reruns([first, again])[0][1].kind == BY_OPERATOR
    returned = [ended(), run(110, 111)]
    assert Causes([], returned, [act]).of_reruns(returned)[0][1] is None


def test_a_stop_explains_a_run_only_if_its_worker_left_while_redis_was_silent():
    own, its_job = call(), job()
    first, again = run(99, None), run(130, 131)
    stop = Act("stop", own.token, 100, 105, "late: no answer")
    leave = fault("TERM supervisor", 104.5)
    silence = fault("stalls in a row", 100, 108, target="server")
    assert found([own], [its_job], [first, again], acts=[stop], faults=[leave, silence]) == set()
    for acts, faults in (
        ([], [leave, silence]),
        ([stop], [silence]),
        ([stop], [leave]),
        ([stop], [fault("TERM supervisor", 120), silence]),
        ([stop], [leave, fault("stalls in a row", 80, 90, target="server")]),
    ):
        assert found([own], [its_job], [first, again], acts=acts, faults=faults) == {"ran again"}
    runs = [ended(), again]  # it had ended, and was not stopped
    faults = [leave, silence]
    assert "ran again" in found([own], [its_job], runs, acts=[stop], faults=faults)


def test_a_retry_that_was_acknowledged_has_a_result_of_its_own():
    own, its_job, first = failing()
    act = Act("retry", own.token, 105, 105.1, "retried")
    assert found([own], [its_job], [first], acts=[act]) == {"results"}
    lost = Act("retry", own.token, 105, 105.1, None)
    assert found([own], [its_job], [first], acts=[lost]) == set()


def test_a_cancelled_job_ends_so_and_does_not_run():
    act = Act("cancel", "c0-1-plain", 99.2, 99.3, "cancelled")
    canceled = job(status="canceled", places={"canceled"}, ttl=-1)
    assert found([call()], [canceled], [], acts=[act]) == set()
    assert found([call()], [canceled], [ended()], acts=[act]) == {"wrong end"}
    assert found([call()], [job()], [ended()], acts=[act]) == {"wrong end"}
    refused = Act("cancel", "c0-1-plain", 99.2, 99.3, "started")
    assert "wrong end" in found([call()], [canceled], [], acts=[refused])


def test_a_stopped_job_may_end_so():
    act = Act("stop", "c0-1-plain", 100.5, 101, "worker0.1")
    parts = [call()], [job(status="stopped")], [run(100, last=100.7)]
    assert found(*parts, acts=[act]) == set()
    refused = Act("stop", "c0-1-plain", 100.5, 101, "refused: it does not run")
    assert found(*parts, acts=[refused]) == {"wrong end"}
    late = Act("stop", "c0-1-plain", 100.5, 101, "late: it has not stopped")
    for undecided in (late, replace(act, reply=None)):
        assert found([call()], [job()], [ended()], acts=[undecided]) == set()


def test_a_job_that_was_stopped_does_not_end_otherwise():
    act = Act("stop", "c0-1-plain", 100.5, 101, "worker0.1")
    assert found([call()], [job()], [ended()], acts=[act]) == {"wrong end"}


# --- deduplication, dependents, times


def test_a_duplicate_is_one_of_a_job_that_exists():
    assert found([call(answer="duplicate")], [], []) == {"lost"}
    assert found([call(answer="duplicate")], [job()], [ended()]) == set()
    first, twin = call("c0-1-single"), call("c0-1-twin", twin="c0-1-single", answer="duplicate")
    first.answer = "unknown"
    assert found([first, twin], [], []) == {"untrue"}


def test_a_second_try_without_an_answer_does_not_move_the_first_ones_time(tmp_path: Path):
    log = tmp_path / "calls"
    entries = [
        {"what": "try", "token": "c0-1-single", "at": 99.0, "queue": "default"},
        {"what": "accepted", "token": "c0-1-single", "at": 99.5},
        {"what": "unknown", "token": "c0-1-single", "at": 105.0},
    ]
    log.write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    [own] = read_call_log(log).calls.values()
    assert (own.answer, own.end) == ("accepted", 99.5)


def test_a_job_that_is_enqueued_twice_is_found():
    assert found([call(sightings=2)], [job()], [ended()]) == {"enqueued twice"}
    first, twin = call("c0-1-single"), call("c0-1-twin", twin="c0-1-single", answer="duplicate")
    parts = [first, twin], [job("c0-1-single")], [ended("c0-1-single")]
    assert found(*parts) == set()
    assert "enqueued twice" in found(parts[0], [*parts[1], job("c0-1-twin")], parts[2])
    twin.answer, twin.end = "accepted", 100.5  # the first was still running
    runs = [*parts[2], run(102, 103, token="c0-1-twin")]
    jobs = [*parts[1], job("c0-1-twin", results=[Result("1", twin.value)])]
    assert "enqueued twice" in found(parts[0], jobs, runs)
    twin.end = 101.5
    assert found(parts[0], jobs, runs) == set()


def test_a_dependent_runs_after_its_parent_and_soon():
    parent, own = call("c0-1-parent"), call("c0-1-0-dependent", parent="c0-1-parent")

    def of(start):
        runs = [ended("c0-1-parent"), run(start, start + 1, token=own.token)]
        return found([parent, own], [job(parent.token), job(own.token, ttl=7190)], runs)

    assert of(101.1) == set()
    assert of(100.5) == {"untimely"}
    assert of(150) == {"untimely"}


def test_a_delayed_job_is_neither_early_nor_late():
    own = call("c0-1-delayed", begin=99, end=99.5, delay=2.0)
    for start, category in ((101.0, set()), (100.5, {"untimely"}), (150.0, {"untimely"})):
        runs = [run(start, start + 0.1, token=own.token)]
        assert found([own], [job(own.token)], runs) == category
    frozen = Uptime([(0.0, 101.0, True), (101.0, 135.0, False), (135.0, 300.0, True)])
    late = [run(150, 150.1, token=own.token)]
    assert found([own], [job(own.token)], late, uptime=frozen) == set()
    pause = Act("pause", "low", 101, 135, "yes")
    assert found([own], [job(own.token)], late, acts=[pause]) == set()


def test_a_failure_explains_a_retry_but_not_one_before_it_is_due():
    token = "c0-1-retried"
    first, second = run(100, 101, token=token, raised=True), run(101.5, 102, token=token)
    assert Causes([], [first, second]).of_reruns([first, second])[0][1].kind == RETRIED
    assert found([call(token)], [job(token)], [first, second]) == set()
    third = run(103, 104, token=token)  # the second had returned
    assert found([call(token)], [job(token)], [first, second, third]) == {"ran again"}
    raised = run(101.5, 102, token=token, raised=True)
    hasty = run(102.2, 103, token=token)  # the second retry comes after 2 s
    assert found([call(token)], [job(token)], [first, raised, hasty]) == {"untimely"}
    own_kill = [fault("kill -9 horse", 102.05)]  # before the second failure was recorded
    assert found([call(token)], [job(token)], [first, raised, hasty], faults=own_kill) == set()
    while_running = run(100.5, 102, token=token)
    assert "ran again" in found([call(token)], [job(token)], [first, while_running])


@pytest.mark.parametrize("kind", ["kill -9 horse", "kill -9 supervisor", "kill -9 both"])
def test_a_re_run_is_slow_after_30_s_of_redis_s_uptime(kind):
    runs = [run(100, last=101), run(135, 136, by=OTHERS)]
    parts = {"faults": [fault(kind, 101)], "calls": [call()], "jobs": [job()], "runs": runs}
    assert found(**parts) == {"slow"}
    down = Uptime([(0.0, 102.0, True), (102.0, 110.0, False), (110.0, 300.0, True)])
    assert found(**parts, uptime=down) == set()
    pause = Act("pause", "low", 102, 110, "yes")
    assert found(**parts, acts=[pause]) == set()
    elsewhere = Act("pause", "high", 102, 110, "yes")
    assert found(**parts, acts=[elsewhere]) == {"slow"}


@pytest.mark.parametrize("kind", LONG_ABSENCES)
def test_a_re_run_is_slow_30_s_after_its_worker_was_absent(kind):
    absence, calls, jobs = fault(kind, 101, 120), [call()], [job()]
    for start, categories in ((130, set()), (135, {"slow"})):
        runs = [run(100, 120.5), run(start, start + 1, by=OTHERS)]
        assert found(calls, jobs, runs, faults=[absence]) == categories


def test_a_horse_may_begin_a_job_while_its_supervisor_is_absent():
    absence = fault("freeze supervisor, long", 101, 150)
    runs = [run(130, 151), run(140, 141, by=OTHERS)]
    assert found([call()], [job()], runs, faults=[absence]) == set()


def test_a_late_start_comes_when_its_worker_is_back():
    absence = fault("cut off from Redis, long", 101, 150)
    runs = [run(117, 118, by=OTHERS), run(150.1, 151)]
    assert found([call()], [job()], runs, faults=[absence]) == set()


def test_a_re_run_is_slow_30_s_after_a_second_term():
    twice = Fault("TERM twice", "worker0", 101, 101, horses=frozenset({HORSE}))
    for start, categories in ((130, set()), (135, {"slow"})):
        runs = [run(100, last=101), run(start, start + 1, by=OTHERS)]
        assert found([call()], [job()], runs, faults=[twice]) == categories


def test_a_silence_counts_when_jobs_were_claimable_redis_up_and_no_fault_near():
    runs = [ended()]
    samples = [Sample(100 + number / 2, 3) for number in range(30)]
    parts = {"calls": [call()], "jobs": [job()], "runs": runs}
    assert found(**parts, samples=samples) == {"silent"}
    assert found(**parts, samples=samples[:20]) == set()  # 10 s are not over
    assert found(**parts, samples=samples, faults=[fault("kill -9 caller", 90)]) == set()
    assert found(**parts, samples=samples, faults=[fault("kill -9 caller", 70)]) == {"silent"}
    empty = [*samples[:12], Sample(106, 0), *samples[13:]]
    assert found(**parts, samples=empty) == set()
    down = Uptime([(0.0, 105.0, True), (105.0, 108.0, False), (108.0, 300.0, True)])
    assert found(**parts, samples=samples, uptime=down) == set()


def test_a_worker_that_runs_nothing_in_a_calm_is_silent():
    tokens = [f"c0-{number}-plain" for number in range(100)]
    runs = [
        run(135, 136, token=token, by=(number, SUPERVISOR)) for number, token in enumerate(tokens)
    ]
    parts = {"calls": [*map(call, tokens)], "jobs": [*map(job, tokens)], "runs": runs}
    assert found(**parts, calms=[Calm(100, 145, {SUPERVISOR})]) == set()
    assert found(**parts, calms=[Calm(100, 145, {SUPERVISOR, 20})]) == {"silent"}
    assert found(**parts, calms=[Calm(110, 145, {20})]) == set()  # 30 s of peace come first
    assert found(**parts, calms=[Calm(100, 145, set(), {0, 1})]) == set()
    assert found(**parts, calms=[Calm(100, 145, set(), {0, 100})]) == {"silent"}
    many = {*range(5), 100}  # horses: 100 jobs are too few to say
    assert found(**parts, calms=[Calm(100, 145, set(), many)]) == set()
    del parts["runs"][0], parts["calls"][0], parts["jobs"][0]
    assert found(**parts, calms=[Calm(100, 145, {20})]) == set()  # too few to say


def test_overlapping_runs_of_a_worker_that_was_not_away_are_wrong():
    crash = fault("kill -9 supervisor", 101)
    seen = verdict([call()], [job()], [run(100, 110), run(105, 106, by=OTHERS)], faults=[crash])
    assert seen.found["ran again"] == []
    assert len(seen.found["overlapping"]) == 1
    assert seen.absent_overlaps == 0


def test_all_is_well_only_after_enough_of_everything():
    tokens = [f"c0-{number}-{name}" for number, name in enumerate(JOBS) if JOBS[name].share]
    calls = [call(token, answer="unknown") for token in tokens]
    faults = [fault(kind, 100) for kind in KINDS]
    history = History(CallLog({own.token: own for own in calls}), [], Contents(), faults)
    assert Verdict(history, fewest_jobs=0).wrong == []
    assert Verdict(history, fewest_jobs=1).wrong == ["only 0 jobs ran"]
    history.faults = faults[1:]
    assert Verdict(history, fewest_jobs=0).wrong == ["never injected: kill -9 horse"]
    del history.call_log.calls[tokens[0]]
    assert "never enqueued: plain" in Verdict(history, fewest_jobs=0).wrong


def test_the_report_names_every_category_and_shortens_long_lists():
    shown = report.table(verdict([call()] * 10))
    assert all(name in shown for name in CATEGORIES.values())
    lines = [f"lost: {number}" for number in range(9)] + ["stuck: 1"]
    assert report.details(lines).splitlines()[-2:] == ["stuck: 1", "lost: ... and 4 more"]


# --- a master that is lost


@pytest.mark.parametrize("kind", ["kill -9 master", "freeze master"])
def test_only_the_last_second_of_a_lost_master_is_excused_and_named(kind):
    lost = fault(kind, 100, 103, target="server")
    recent, old = call(end=99.5), call(end=98.9)
    assert found([recent], faults=[lost]) == {"slow"}  # and nothing ran afterwards
    assert verdict([recent], faults=[lost]).ends.not_replicated == [recent.token]
    assert found([old], faults=[lost]) == {"lost", "slow"}
    polite = fault("SENTINEL FAILOVER", 100, 103, target="server")
    assert found([recent], faults=[polite]) == {"lost", "slow"}


def test_a_lost_master_explains_a_run_of_what_it_may_have_forgotten():
    lost = fault("kill -9 master", 100, 103, target="server")
    again = run(105, 106, by=OTHERS)
    assert cause([lost], run(98.5, 99.5), again) is lost  # its outcome was not replicated
    assert cause([lost], run(99.5, 104), again) is lost  # its claim
    assert cause([lost], run(96, 97.9), again) is None
    assert cause([lost], run(103.5, 104), again) is None  # claimed from the new master
    assert cause([lost], run(98.5, 98.9), run(99.5, 99.8, by=OTHERS)) is None  # before it


def test_a_failover_by_hand_explains_a_run_of_what_was_acknowledged_meanwhile():
    polite = fault("SENTINEL FAILOVER", 100, 103, target="server")
    again = run(115, 116, by=OTHERS)
    assert cause([polite], run(99.5, 101), again) is polite  # its outcome was not replicated
    assert cause([polite], run(101, 104), again) is polite  # its claim
    assert cause([polite], run(98.5, 99.5), again) is None
    assert cause([polite], run(103.5, 104), again) is None


def test_what_an_operator_was_told_by_a_lost_master_is_not_relied_on():
    act = Act("cancel", "c0-1-plain", 99.2, 99.5, "cancelled")
    verdict([call()], acts=[act], faults=[fault("kill -9 master", 100, 103, target="server")])
    assert act.reply is None


def test_jobs_run_again_within_20_s_of_a_promotion():
    promotion = fault("SENTINEL FAILOVER", 90, 93, target="server")
    for start, categories in ((112.0, set()), (114.0, {"slow"})):
        runs = [run(start, start + 1)]
        assert found([call()], [job()], runs, faults=[promotion]) == categories
