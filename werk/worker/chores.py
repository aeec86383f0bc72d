"""Chores: what a horse does between jobs: RQ's clean-up, and calls of the give-up handler."""

from __future__ import annotations

from typing import TYPE_CHECKING

from werk.worker.cleaner import Cleaner
from werk.worker.final_failures import FinalFailures

if TYPE_CHECKING:
    from werk.worker.performer import Performer


class Chores:
    """Does what is due, while the horse has no job."""

    def __init__(self, performer: Performer, handler: str | None) -> None:
        worker = performer.recorder.worker
        self.cleaner, self.refusals = Cleaner(worker, performer.shared), performer.runner.refusals
        self.failures = FinalFailures(handler, performer.recorder, performer.runner)
        self.are_due = self.cleaner.is_due()  # claim no job before they are done
        if handler:  # also if this horse cannot import it: orders may fail jobs before that matters
            worker.on_final_failure = self.expect_failure

    def look(self) -> None:
        if self.refusals:
            self.refusals.write()
        self.are_due = self.are_due or self.cleaner.is_due() or self.failures.are_due()

    def expect_failure(self) -> None:
        """Note that a job is about to fail finally: call the handler before the next job."""
        self.are_due = self.are_due or self.failures.may_be_due()

    def do(self) -> bool:
        """Do what is due. Return whether there may be a job now."""
        were_due, self.are_due = self.are_due, False
        if were_due and self.cleaner.is_due():
            self.cleaner.clean()
        return self.failures.handle() or were_due
