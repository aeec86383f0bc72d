"""`bin/chaos`: workers and callers under faults, and a check of what became of every job.

monkey injects the faults -> fleet runs the processes, each behind a gate of its own -> tasks and
callers write down what happened, outside Redis -> verdict compares that with what Redis says
"""
