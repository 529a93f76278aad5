"""Hears from a bugfeed gateway which bugs have just changed, and misses none."""

from ._client import Bugfeed
from ._events import BugfeedError, Change, Event, Gap
from ._state import FileState, State
from ._token import TokenSource
from ._transport import Link, Listener, Transport

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
    "TokenSource",
    "Transport",
]
__version__ = "0.1.0"
