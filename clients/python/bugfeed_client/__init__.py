"""Hears from a bugfeed gateway which bugs have just changed, and misses none."""

from ._client import Bugfeed
from ._core import Link, Listener, Transport
from ._events import BugfeedError, Change, Event, Gap
from ._state import FileState, State

__all__ = [
    "Bugfeed",
    "BugfeedError",
    "Change",
    "Event",
    "FileState",
    "Gap",
    "Link",
    "Listener",
    "State",
    "Transport",
]
__version__ = "0.1.0"
