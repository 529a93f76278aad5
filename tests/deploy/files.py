"""What the tests of deploy/ share: where files are, and what the built programs say of themselves."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
REQUIRE = os.environ.get("BUGFEED_TEST_REQUIRE") == "1"


def skipped(why: str) -> None:
    """Skips the test; where nothing may be skipped, fails it."""
    if REQUIRE:
        pytest.fail(f"BUGFEED_TEST_REQUIRE=1, but {why}")
    pytest.skip(why)


def tool(name: str, package: str) -> str:
    """The path of an installed program, or a skipped test."""
    path = shutil.which(name, path=os.environ["PATH"] + ":/usr/sbin:/sbin")
    if path is None:
        skipped(f"{name} is not installed; install {package}")
    return str(path)


def program(name: str) -> Path:
    """A program of this workspace that was built before, or a skipped test."""
    folder = Path(os.environ.get("BUGFEED_TEST_BIN", ROOT / "target/debug/bugfeed")).parent
    if not (folder / name).is_file():
        skipped(f"{folder / name} is not there; run cargo build --workspace --bins")
    return folder / name


def options(name: str, command: str) -> set[str]:
    """The variables that a program reads."""
    said = subprocess.run([program(name), command, "--help"], capture_output=True, text=True, check=True).stdout
    return set(re.findall(r"\[env: (BUGFEED_[A-Z_]+)=?\]", said))


def role(words: list[str]) -> tuple[str, str]:
    """Program and command of a container's words; without words, the image's own."""
    if not words or words[0] == "/usr/local/bin/bugfeed-shim":
        return ("bugfeed-shim", words[1]) if words else ("bugfeed", "serve")
    return ("bugfeed", words[0])
