"""`bin/chaos`: workers and callers under faults, and a check of what became of every job.

monkey injects faults, operators act -> fleet runs the processes, each behind a gate of its own ->
tasks and callers write down what happened, outside Redis -> verdict compares that with what Redis
holds in the end. `bin/chaos --mutants` checks the verdict itself.
"""
