"""What the application is told."""

from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Optional, Union


@dataclass(frozen=True)
class Change:
    """A bug changed. What changed is for the tracker's own API to say."""

    bug: int
    #: UTC, as the tracker wrote it: ``2014-04-03T21:13:45``, perhaps with a fraction. Neither unique nor ascending.
    when: str

    @property
    def bugs(self) -> tuple[int, ...]:
        """The bug, as a tuple like that of a :class:`Gap`."""
        return (self.bug,)

    @property
    def time(self) -> datetime:
        """``when`` as an aware datetime."""
        date, _, fraction = self.when.partition(".")
        return datetime.fromisoformat(f"{date}.{fraction:0<6}").replace(tzinfo=timezone.utc)


@dataclass(frozen=True)
class Gap:
    """Nobody can tell what these bugs went through: treat all of them as changed, ask the tracker."""

    bugs: tuple[int, ...]
    #: Any bug of the feed, and ``bugs`` is empty: told to who watches all.
    all: bool = False


Event = Union[Change, Gap]


class BugfeedError(Exception):
    """What went wrong: a subscription was refused, the cursor could not be stored, or, if ``final``, the feed ended
    because trying again would not mend it."""

    def __init__(
        self,
        message: str,
        *,
        final: bool = False,
        code: Optional[int] = None,
        status: Optional[int] = None,
        bugs: tuple[int, ...] = (),
    ) -> None:
        super().__init__(message)
        #: Whether the feed ended.
        self.final = final
        #: The WebSocket close code, if that was it.
        self.code = code
        #: The HTTP status, if that was it.
        self.status = status
        #: The bugs that were refused, and are not watched. Empty where all were.
        self.bugs = bugs
