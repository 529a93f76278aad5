"""The bill of materials: it is CycloneDX, and says what Cargo.lock says."""

import json
import subprocess
import sys

import tomllib
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from files import DEPLOY, ROOT


def test_it_is_cyclonedx_and_holds_what_is_linked() -> None:
    done = subprocess.run([sys.executable, DEPLOY / "sbom"], check=True, stdout=subprocess.PIPE, text=True, timeout=120)
    assert JsonStrictValidator(SchemaVersion.V1_5).validate_str(done.stdout) is None
    bom = json.loads(done.stdout)
    locked = {(one["name"], one["version"]): one for one in tomllib.loads((ROOT / "Cargo.lock").read_text())["package"]}
    found = {(one["name"], one["version"]): one for one in bom["components"]}
    assert bom["metadata"]["component"]["name"] == "bugfeed"
    for key, component in found.items():
        sums = [one["content"] for one in component.get("hashes", [])]
        assert sums == [locked[key]["checksum"]] if "checksum" in locked[key] else not sums, key
        assert component["licenses"], key
    names = {name for name, _ in found}
    assert {"bugfeed-shim", "tokio", "lapin", "rustls", "sqlx", "libsqlite3-sys"} <= names
    # What only tests, benchmarks and builds need is in no program.
    assert not {"bugfeed-testbed", "bugfeed-bench", "tempfile", "cc"} & names
