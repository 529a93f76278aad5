"""Where a cursor is kept between two runs."""

import os
from typing import Optional, Protocol, Union


class State(Protocol):
    """Keeps one text. Both are called from the event loop and should be quick; errors are raised from ``watch``."""

    def load(self) -> Optional[str]:
        """The text saved last, None if there was none."""

    def save(self, cursor: str) -> None:
        """Replaces it, wholly or not at all."""


#: No gateway makes a longer one, in characters.
MAX_CURSOR = 1000


class FileState:
    """Keeps the cursor in a file, which is replaced in one step: a crash leaves the old one or the new one.

    One file for each set of bugs that is watched: a cursor says "these bugs' changes up to here were dealt with".
    """

    def __init__(self, path: Union[str, "os.PathLike[str]"]) -> None:
        self._path = os.fspath(path)

    def load(self) -> Optional[str]:
        try:
            with open(self._path, encoding="utf-8", errors="replace") as file:
                text = file.read(MAX_CURSOR + 10).strip()
        except FileNotFoundError:
            return None
        # A file emptied by a power cut is no fresh start. The gateway answers such a text with a gap.
        whole = 0 < len(text) <= MAX_CURSOR and text.isascii() and text.isprintable()
        return text if whole else "damaged"

    def save(self, cursor: str) -> None:
        new = f"{self._path}.new"
        with open(new, "w", encoding="utf-8") as file:
            file.write(f"{cursor}\n")
        os.replace(new, self._path)
