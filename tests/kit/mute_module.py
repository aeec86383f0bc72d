"""A module that cannot be imported, for a reason that cannot be shown."""

from odd_tasks import Mute

raise Mute
