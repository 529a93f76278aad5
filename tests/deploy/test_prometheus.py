"""The alert rules, by Prometheus's own tool: they can be read, and each fires once."""

import subprocess

import pytest
from files import DEPLOY, tool


@pytest.mark.parametrize("arguments", [["check", "rules", "alerts.yml"], ["test", "rules", "alerts.test.yml"]])
def test_rules(arguments: list[str]) -> None:
    command = [tool("promtool", "Debian's package prometheus"), *arguments]
    done = subprocess.run(
        command, cwd=DEPLOY / "prometheus", capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
