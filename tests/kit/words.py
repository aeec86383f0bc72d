"""Find retired phrases in what people read: `python tests/kit/words.py`, which bin/lint runs.

The list keeps the English plain, and one word per meaning. Add a phrase here when a review finds
it twice. Spelling is codespell's part.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
FOLDERS = ".ci .github bin deploy docs examples tests werk".split()
SUFFIXES = ["", ".cfg", ".html", ".lua", ".md", ".py", ".service", ".timer", ".toml", ".yaml"]
SUFFIXES += [".yml"]
SKIPPED = ("tests/data/", "tests/kit/words.py", "tests/unit/test_words.py")

# A pattern and what to write instead. A space also matches a line break inside a comment.
RETIRED = {
    r"\bthat lives?\b(?! workers?\b)": "live, running",
    r"\bput(s|ting)? (it |them |jobs? )?off\b": "defer, retry later",
    r"\bput_off\b|(?<!event=)\bput-off\b": "deferred (CHANGELOG names the old event)",
    r"\bRedis (is|was|be) away\b|\b(is|are|was|were|be|been) away\b": "unreachable",
    r"\bwhoever\b": "name the process or the person",
    r"\blikewise\b": "say it again, or 'as above'",
    r"\bfor ever\b|\bonce and for all\b": "permanently, without end, never expires",
    r"\bstock(_| )(RQ|rq|workers?|schedulers?)\b": "plain RQ worker",
    r"\bat work on\b": "running",
    r"\bat the most\b": "at most",
    r"\bwoken up\b": "on call",
    r"\bso much (later|longer|more)\b": "name the amount: SECONDS later",
    r"diar(y|ies)\b": "log",
    r"(?<!werk:)\btall(y|ies)\b": "counters (the Redis key werk:tallies stays)",
    r"\brehears": "say what is done in advance",
    r"\btried to death\b|\bpoison put aside\b": "crash limit reached",
    r"\bmend(s|ed|ing)?\b": "fix",
    r"\b(unfit|misfits?|beliefs?)\b": "invalid, version mismatch, cache",
    r"\b(impatience|impatient|patience)\b": "retry_forever, no_retry",
    r"\b(bury|buries|buried)\b": "reap",
    r"\b(is|are|was|were|be|been) gone\b": "has exited, has expired, was deleted",
    r"\bthat is no more\b|\bis no more\b": "was deleted, has expired",
    r"\bsuch as are\b": "those that are",
    r"\b(is|are|be) said\b": "is reported, is logged",
    r"\bTell whether\b": "Return whether",
}
_PATTERNS = {
    re.compile(phrase.replace(" ", r"\s+(?:(?:#|--|//)\s+)?"), re.IGNORECASE): instead
    for phrase, instead in RETIRED.items()
}


def find(text: str) -> Iterator[tuple[int, str, str]]:
    """Yield each retired phrase in a text: its line, the phrase, what to write instead."""
    for pattern, instead in _PATTERNS.items():
        for match in pattern.finditer(text):
            line = text.count("\n", 0, match.start()) + 1
            yield line, " ".join(match[0].split()), instead


def files(root: Path = ROOT) -> Iterator[Path]:
    """Yield the files of the project that people read."""
    inside = [path for folder in FOLDERS for path in sorted((root / folder).rglob("*"))]
    for path in [*sorted(root.glob("*")), *inside]:
        name = path.relative_to(root).as_posix()
        is_text = path.is_file() and path.suffix in SUFFIXES and "__pycache__" not in name
        if is_text and not name.startswith(SKIPPED):
            yield path


def main() -> int:
    """Print each retired phrase as file:line. Return 1 if there are any."""
    found = [(path, *hit) for path in files() for hit in sorted(find(path.read_text()))]
    for path, line, phrase, instead in found:
        print(f"{path.relative_to(ROOT)}:{line}: retired phrase {phrase!r}; write: {instead}")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
