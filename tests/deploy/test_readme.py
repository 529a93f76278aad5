"""deploy/README.md: what can be tried of the commands that need a container engine or a cluster, without these.

`deploy` and `real::deploy` try those of systemd and of RabbitMQ. Left out: that Docker and a cluster carry them out.
"""

import re
import shlex
import subprocess
from pathlib import Path

import yaml
from files import DEPLOY, ROOT, tool

TEXT = (DEPLOY / "README.md").read_text()


def commands(program: str) -> list[list[str]]:
    """The words of each command of a program, those that go on joined."""
    blocks = re.findall(r"```sh\n(.*?)```", TEXT.replace("\\\n", ""), re.S)
    lines = [line for block in blocks for line in block.splitlines()]
    return [shlex.split(line) for line in lines if line.startswith(program + " ")]


def table() -> dict[str, list[str]]:
    """The files of each folder that becomes a secret."""
    rows = re.findall(r"^\| `(\w+)/` \| (.*) \|$", TEXT, re.M)
    return {folder: re.findall(r"`(\w+)`", cells) for folder, cells in rows}


def test_kubectl_makes_the_secrets_that_the_manifests_read(tmp_path: Path) -> None:
    kubectl = tool("kubectl", "kubectl 1.27 or newer")
    assert table().keys() == {"gateway", "shim", "hooks"}
    for folder, files in table().items():
        (tmp_path / folder).mkdir()
        for file in files:
            (tmp_path / folder / file).write_text("amqp://u:p@host/%2f\n")
    made = {}
    for words in commands("kubectl"):
        if words[1:4] == ["create", "secret", "generic"]:
            dry = [kubectl, *words[1:], "--dry-run=client", "-o", "yaml"]
            told = subprocess.run(dry, cwd=tmp_path, capture_output=True, text=True)
            assert told.returncode == 0, told.stderr
            secret = yaml.safe_load(told.stdout)
            assert secret["metadata"]["namespace"] == "bugfeed"
            made[secret["metadata"]["name"]] = sorted(secret["data"])
    assert made == {f"bugfeed-{folder}": sorted(files) for folder, files in table().items()}
    read = {}
    for name in ["gateway", "shim", "hooks"]:
        text = (DEPLOY / f"kubernetes/base/{name}.yaml").read_text()
        (secret,) = re.findall(r"secret: \{ secretName: ([\w-]+), defaultMode: 0440 \}", text)
        read[secret] = sorted(re.findall(r"_FILE, value: /run/secrets/bugfeed/(\w+) \}", text))
        assert "mountPath: /run/secrets/bugfeed, readOnly: true" in text
    assert made == read


def test_kubectl_is_given_what_there_is() -> None:
    kubectl = tool("kubectl", "kubectl 1.27 or newer")
    applied = [words for words in commands("kubectl") if words[1] == "apply"]
    (inside,) = [words for words in commands("kubectl") if words[1] == "exec"]
    hooks = (DEPLOY / "kubernetes/base/hooks.yaml").read_text()
    assert "hooks-0" in inside and f"{{ name: BUGFEED_ADMIN_TOKEN_FILE, value: {inside[-1]} }}" in hooks
    assert len(applied) == 2 and len(commands("kubectl")) == 6
    for _, _, flag, path in applied:
        if flag == "-k":
            subprocess.run([kubectl, "kustomize", ROOT / path], check=True, capture_output=True)
        else:
            assert yaml.safe_load((ROOT / path).read_text())["kind"] == "Namespace"


def test_docker_is_given_services_that_there_are() -> None:
    services = yaml.safe_load((DEPLOY / "compose/compose.yaml").read_text())["services"]
    lines = commands("docker")
    assert len(lines) == 3
    for words in lines:
        assert words[1:4] == ["compose", "-f", "deploy/compose/compose.yaml"]
        if words[4] == "exec":
            assert words[5] in services
    (keys,) = [words for words in lines if "keys" in words]
    assert keys[-1] == services["hooks"]["environment"]["BUGFEED_ADMIN_TOKEN_FILE"]
    (insert,) = [words for words in lines if words[5] == "mariadb"]
    (secret,) = re.findall(r"/run/secrets/([\w-]+)", insert[-1])
    assert secret in services["mariadb"]["secrets"]


def test_the_kernel_has_what_is_set() -> None:
    lines = (DEPLOY / "sysctl/60-bugfeed.conf").read_text().splitlines()
    pairs = [line.split(" = ") for line in lines if line and not line.startswith("#")]
    assert len(pairs) == 4
    for name, value in pairs:
        place = Path("/proc/sys") / name.replace(".", "/")
        assert len(place.read_text().split()) == len(value.split()), name
