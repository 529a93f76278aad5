"""deploy/proxy: what can be said of the files without running them. `real::proxies` runs nginx, HAProxy and Caddy."""

import re
import subprocess
from pathlib import Path

import jsonschema
import pytest
import yaml
from files import DEPLOY, tool
from schemas import schema

FOLDER = DEPLOY / "proxy"
# The longest that a long-poll waits; pings and comments of a stream come more often.
LONGEST_SILENCE_S = 60


@pytest.mark.parametrize(
    ("file", "name", "broken"),
    [
        ("traefik.yaml", "traefik-v2-file-provider", {"http": {"routers": {"a": {"rule": 1}}}}),
        ("traefik-static.yaml", "traefik-v2", {"entryPoints": {"a": {"address": 1}}}),
    ],
)
def test_traefik_has_schemas_for_its_files(file: str, name: str, broken: dict) -> None:
    checker = schema(name)
    checker.validate(yaml.safe_load((FOLDER / file).read_text()))
    with pytest.raises(jsonschema.ValidationError):
        checker.validate(broken)


def test_traefik_names_what_there_is() -> None:
    http = yaml.safe_load((FOLDER / "traefik.yaml").read_text())["http"]
    static = yaml.safe_load((FOLDER / "traefik-static.yaml").read_text())
    for router in http["routers"].values():
        assert set(router["entryPoints"]) <= static["entryPoints"].keys()
        assert router["service"] in http["services"]
        assert set(router.get("middlewares", [])) <= http["middlewares"].keys()
    timeouts = static["entryPoints"]["websecure"]["transport"]["respondingTimeouts"]
    assert timeouts["writeTimeout"] == timeouts["readTimeout"] == 0
    assert http["services"]["gateways"]["loadBalancer"]["responseForwarding"]


@pytest.mark.parametrize(("file", "least"), [("nginx.conf", 2), ("haproxy.cfg", 3)])
def test_timeouts_are_longer_than_the_longest_silence(file: str, least: int) -> None:
    text = (FOLDER / file).read_text()
    found = re.findall(r"^\s*(?:proxy_(?:read|send)_timeout|timeout (?:client|server|tunnel)) +(\d+)s", text, re.M)
    assert len(found) >= least and all(int(seconds) > LONGEST_SILENCE_S for seconds in found)


def certificate(folder: Path) -> None:
    ask = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=bugfeed.example.org"
    openssl = tool("openssl", "the Debian package openssl")
    keys = ["-keyout", folder / "bugfeed.key", "-out", folder / "bugfeed.pem"]
    subprocess.run([openssl, *ask.split(), *keys], check=True, capture_output=True)


def test_haproxy_takes_its_file_with_a_certificate(tmp_path: Path) -> None:
    haproxy = tool("haproxy", "the Debian package haproxy")
    certificate(tmp_path)
    both = (tmp_path / "bugfeed.pem").read_text() + (tmp_path / "bugfeed.key").read_text()
    (tmp_path / "bugfeed.pem").write_text(both)
    text = (FOLDER / "haproxy.cfg").read_text().replace("/etc/haproxy/", f"{tmp_path}/")
    (tmp_path / "haproxy.cfg").write_text(text)
    said = subprocess.run([haproxy, "-c", "-f", tmp_path / "haproxy.cfg"], capture_output=True, text=True)
    assert said.returncode == 0 and "WARNING" not in said.stderr, said.stderr


def test_nginx_takes_its_file_with_a_certificate(tmp_path: Path) -> None:
    nginx = tool("nginx", "the Debian package nginx")
    certificate(tmp_path)
    text = (FOLDER / "nginx.conf").read_text().replace("/etc/ssl/", f"{tmp_path}/")
    (tmp_path / "nginx.conf").write_text(f"pid {tmp_path}/pid;\nevents {{}}\nhttp {{\n{text}\n}}\n")
    command = [nginx, "-t", "-q", "-p", tmp_path, "-c", tmp_path / "nginx.conf", "-e", "stderr"]
    said = subprocess.run(command, capture_output=True, text=True)
    assert said.returncode == 0 and "warn" not in said.stderr, said.stderr


def test_caddy_takes_its_file(tmp_path: Path) -> None:
    caddy = tool("caddy", "the Debian package caddy")
    homes = {name: str(tmp_path) for name in ["HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME"]}
    command = [caddy, "validate", "--adapter", "caddyfile", "--config", FOLDER / "Caddyfile"]
    said = subprocess.run(command, capture_output=True, text=True, env={**homes, "PATH": "/usr/bin"})
    assert said.returncode == 0, said.stderr
    layout = subprocess.run([caddy, "fmt", FOLDER / "Caddyfile"], capture_output=True, text=True)
    assert layout.stdout == (FOLDER / "Caddyfile").read_text()
