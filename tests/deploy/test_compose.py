"""deploy/compose: the file fits its schema and the programs. That its services work is tested by `real::compose`."""

import json
import re
import stat
import subprocess
from pathlib import Path

import jsonschema
import pytest
import yaml
from files import DEPLOY, options, role, tool
from schemas import schema

FOLDER = DEPLOY / "compose"
FILE = yaml.safe_load((FOLDER / "compose.yaml").read_text())
OURS = ["shim", "gateway-a", "gateway-b", "hooks"]


def test_the_file_fits_the_schema_of_compose_files() -> None:
    checker = schema("compose-spec")
    checker.validate(FILE)
    broken = {**FILE, "services": {"a": {"image": "b", "restrat": "always"}}}
    with pytest.raises(jsonschema.ValidationError):
        checker.validate(broken)


def test_what_it_names_is_there() -> None:
    for name, service in FILE["services"].items():
        networks = service["networks"]
        assert set(networks) <= FILE["networks"].keys(), name
        for needed in service.get("depends_on", {}):
            assert "healthcheck" in FILE["services"][needed], f"{name} waits for {needed}"
        for secret in service.get("secrets", []):
            assert secret in FILE["secrets"], name
        for volume in service.get("volumes", []):
            where = volume.split(":")[0]
            assert where in FILE["volumes"] or (FOLDER / where).exists(), f"{name}: {where}"
        assert "healthcheck" in service and "restart" in service, name
    assert FILE["networks"]["inside"]["internal"] is True
    published = [port for service in FILE["services"].values() for port in service.get("ports", [])]
    assert published == ["127.0.0.1:8080:8080"]


@pytest.mark.parametrize("name", OURS)
def test_our_services_have_no_more_than_they_need(name: str) -> None:
    service = FILE["services"][name]
    assert service["read_only"] is True and service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert "user" not in service, "the image has one"
    entry = [word for word in service.get("entrypoint", []) if word.endswith("-shim")]
    known = options(*role(entry + service["command"]))
    assert service["environment"].keys() <= known
    assert not any("://" in value for value in service["environment"].values()), "addresses with passwords are secrets"
    grace = int(service["stop_grace_period"].removesuffix("s"))
    unit = "bugfeed-gateway@" if name.startswith("gateway") else f"bugfeed-{name}"
    stop = re.search(r"^TimeoutStopSec=(\d+)$", (DEPLOY / f"systemd/{unit}.service").read_text(), re.M)
    assert stop and grace >= int(stop[1])


def test_passwords_are_made_once_and_nobody_else_reads_them(tmp_path: Path) -> None:
    tool("openssl", "the Debian package openssl")
    folder = tmp_path / "secrets"
    make = [FOLDER / "make-secrets", folder]
    subprocess.run(make, check=True)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    again = subprocess.run(make, capture_output=True, text=True)
    assert again.returncode == 1 and "is there already" in again.stderr
    files = {file.name for file in folder.iterdir()}
    named = {Path(secret["file"]).name for secret in FILE["secrets"].values()}
    assert files == named
    for name in OURS:
        service = FILE["services"][name]
        read = {value for key, value in service["environment"].items() if value.startswith("/run/secrets/")}
        assert read == {f"/run/secrets/{secret}" for secret in service["secrets"]}, name
        modes = [(folder / secret).stat().st_mode for secret in service["secrets"]]
        assert all(mode & 0o004 for mode in modes), "the image has its own user"
    definitions = json.loads((folder / "rabbitmq-definitions.json").read_text())
    assert len({user["password_hash"] for user in definitions["users"]} - {""}) == 3
    passwords = re.findall(r":([0-9a-f]{48})@", "".join((folder / file).read_text() for file in files))
    assert len(set(passwords)) == 5


def test_secrets_are_not_in_the_repository() -> None:
    tracked = subprocess.run(["git", "ls-files", FOLDER], capture_output=True, text=True, cwd=FOLDER, check=True).stdout
    assert not any("secrets/" in line for line in tracked.splitlines())
    ignored = subprocess.run(["git", "check-ignore", "-q", FOLDER / "secrets/shim-amqp"], cwd=FOLDER)
    assert ignored.returncode == 0
