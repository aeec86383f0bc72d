"""Times, lengths and texts that packages and the Lua scripts share: each is defined here alone.

scripts.py prepends them to the scripts that use them. A task's defaults are in registry.py.
"""

from __future__ import annotations

LEASE_S = 15  # a worker that is silent for longer counts as dead
OWNED_S = 90  # RQ leaves an execution alone for this long: 30 s between beats and 60 more
LISTED_S = OWNED_S + 60  # how long an execution stays in its job's set of executions
FENCED_S = 60  # how long every horse asks for its generation after one has left a job behind
DEFER_S = 10  # how long a worker defers a job whose task it does not know
UNKNOWN_S = 600  # a job of an unknown task fails this long after it was first deferred
MONTH_S = 30 * 24 * 3600  # how long records without an owner are kept
YEAR_S = 365 * 24 * 3600  # the results of a job that has not ended, if its hash never expires
MOST_RESULTS = 10  # of a job, as in RQ
DESCRIPTION_LENGTH = 200  # characters of a call, as people see it
FAILURES_KEPT_S = 8 * 24 * 3600  # the counts of failures by hour
MOST_GAVE_UP = 10_000  # final failures that may wait for their handler
ERROR_LENGTH = 200  # characters of an error, in a list or in a job's record
GONE_ENTRY = "werk: gone"  # no job's id: replaces an entry of a queue's list until it is removed
