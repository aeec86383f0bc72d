"""A module whose import raises the error that the environment names: see odd_tasks.py."""

from __future__ import annotations

import odd_tasks

odd_tasks.raise_asked()
