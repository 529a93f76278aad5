"""The alert rules, by Prometheus's own tool: they can be read, and each fires once."""

import os
import shutil
import subprocess

import pytest

from files import DEPLOY

FOLDER = DEPLOY / "prometheus"


@pytest.mark.parametrize("arguments", [["check", "rules", "alerts.yml"], ["test", "rules", "alerts.test.yml"]])
def test_rules(arguments):
    promtool = shutil.which("promtool")
    if not promtool:
        if os.environ.get("BUGFEED_TEST_REQUIRE"):
            pytest.fail("promtool is missing: install Debian's package prometheus")
        pytest.skip("promtool is not installed")
    done = subprocess.run([promtool, *arguments], cwd=FOLDER, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
