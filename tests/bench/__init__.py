"""`bin/bench`: the figures of docs/benchmarks.md, ours and plain RQ in turns on the same server.

measures says what is measured and what is to be reached -> stand runs server and workers, pinned or
free -> load is what runs in a process of its own: callers, and the floor to compare with
-> kit/benchmarks.py makes text, table and chart of the result
"""
