"""deploy/kubernetes: what kustomize makes of it fits the schemas of Kubernetes, the programs, and itself."""

import re
import subprocess

import kubernetes_validate
import pytest
import yaml
from files import DEPLOY, ROOT, options, role, tool

FOLDER = DEPLOY / "kubernetes"
LAYERS = ["base", "overlays/small", "overlays/large"]
# The oldest that the manifests are for (sleep in preStop), and the newest whose schemas are there.
VERSIONS = ["1.30", kubernetes_validate.latest_version()]


def made(layer: str) -> list[dict]:
    """What `kubectl kustomize` makes, each layer once."""
    if layer not in MADE:
        kubectl = tool("kubectl", "kubectl 1.27 or newer")
        told = subprocess.run([kubectl, "kustomize", FOLDER / layer], capture_output=True, text=True)
        assert told.returncode == 0 and not told.stderr, told.stderr
        MADE[layer] = list(yaml.safe_load_all(told.stdout))
    return MADE[layer]


MADE: dict[str, list[dict]] = {}


def kind(layer: str, *names: str) -> list[dict]:
    return [item for item in made(layer) if item["kind"] in names]


def workloads(layer: str) -> list[dict]:
    return kind(layer, "Deployment", "StatefulSet")


def pod(workload: dict) -> dict:
    return workload["spec"]["template"]["spec"]


def fits(selector: dict, labels: dict) -> bool:
    return bool(selector) and selector.items() <= labels.items()


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("version", VERSIONS)
def test_each_object_fits_its_schema(layer: str, version: str) -> None:
    for item in made(layer):
        kubernetes_validate.validate(item, version, strict=True)
        if item["kind"] != "Namespace":
            assert item["metadata"]["namespace"] == "bugfeed", item


def test_the_schemas_find_a_mistake() -> None:
    broken = yaml.safe_load((FOLDER / "base/gateway.yaml").read_text().split("---")[0])
    broken["spec"]["template"]["spec"]["containers"][0]["readynessProbe"] = {}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(broken, VERSIONS[-1], strict=True)


@pytest.mark.parametrize("layer", LAYERS)
def test_pods_are_restricted(layer: str) -> None:
    assert len(workloads(layer)) == 3
    for workload in workloads(layer):
        spec = pod(workload)
        assert spec["securityContext"]["runAsNonRoot"] and spec["securityContext"]["runAsUser"] == 65532
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert spec["automountServiceAccountToken"] is False
        for container in spec["containers"]:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }
            assert container["image"].startswith("bugfeed:") and not container["image"].endswith(":latest")
            assert {"cpu", "memory"} <= container["resources"]["requests"].keys()
            assert "memory" in container["resources"]["limits"]


@pytest.mark.parametrize("layer", LAYERS)
def test_variables_are_options_and_secrets_come_from_secrets(layer: str) -> None:
    for workload in workloads(layer):
        (container,) = pod(workload)["containers"]
        known = options(*role(container.get("command", []) + container["args"]))
        for variable in container["env"]:
            assert variable["name"] in known, variable
            assert "://" not in variable["value"], variable
        assert "envFrom" not in container, "what is in a variable is seen in more places than a file"
        (secret,) = [volume["secret"] for volume in pod(workload)["volumes"] if "secret" in volume]
        assert secret["secretName"].startswith("bugfeed-") and secret["defaultMode"] == 0o440
        assert pod(workload)["securityContext"]["fsGroup"] == 65532


@pytest.mark.parametrize("layer", LAYERS)
def test_probes_ask_the_admin_port_and_the_grace_is_longer_than_the_drain(layer: str) -> None:
    shutdown = re.search(r"BUGFEED_SHUTDOWN_TIMEOUT_MS\", default_value_t = ([0-9_]+)", source("src/cli/serving.rs"))
    assert shutdown
    for workload in workloads(layer):
        (container,) = pod(workload)["containers"]
        name = container["name"]
        ports = {port["name"]: port["containerPort"] for port in container["ports"]}
        listens = {v["name"]: v["value"] for v in container["env"] if v["name"].endswith("LISTEN")}
        assert {f"0.0.0.0:{port}" for port in ports.values()} == set(listens.values())
        for probe in ["startupProbe", "readinessProbe", "livenessProbe"]:
            assert container[probe]["httpGet"]["port"] == "admin"
        assert container["livenessProbe"]["httpGet"]["path"] == "/livez"
        # A shim that stands by is not ready, and a rollout would wait for it for ever.
        ready = "/livez" if name == "shim" else "/readyz"
        assert container["readinessProbe"]["httpGet"]["path"] == ready
        sleep = container.get("lifecycle", {}).get("preStop", {}).get("sleep", {}).get("seconds", 0)
        assert name == "shim" or sleep >= 2 * container["readinessProbe"]["periodSeconds"]
        unit = {"gateway": "bugfeed-gateway@", "shim": "bugfeed-shim", "hooks": "bugfeed-hooks"}[name]
        stop = re.search(r"^TimeoutStopSec=(\d+)$", (DEPLOY / f"systemd/{unit}.service").read_text(), re.M)
        assert stop
        grace = pod(workload)["terminationGracePeriodSeconds"]
        assert grace >= sleep + int(stop[1]) and (name != "gateway" or grace > sleep + int(shutdown[1]) / 1000)


def source(path: str) -> str:
    return (ROOT / path).read_text()


@pytest.mark.parametrize("layer", LAYERS)
def test_what_selects_finds_its_pods_and_what_names_a_port_a_port(layer: str) -> None:
    pods = [workload["spec"]["template"] for workload in workloads(layer)]
    ports = {port["name"] for workload in workloads(layer) for port in pod(workload)["containers"][0]["ports"]}
    for service in kind(layer, "Service"):
        found = [p for p in pods if fits(service["spec"]["selector"], p["metadata"]["labels"])]
        assert len(found) == 1, service
        own = {port["name"] for port in found[0]["spec"]["containers"][0]["ports"]}
        assert {port["targetPort"] for port in service["spec"]["ports"]} <= own
    headless = [s["metadata"]["name"] for s in kind(layer, "Service") if s["spec"].get("clusterIP") == "None"]
    assert sorted(headless) == ["gateway-admin", "hooks-admin", "shim-admin"]
    budgets = kind(layer, "PodDisruptionBudget")
    for workload in workloads(layer):
        labels = workload["spec"]["template"]["metadata"]["labels"]
        assert workload["spec"]["selector"]["matchLabels"].items() <= labels.items()
        assert sum(fits(b["spec"]["selector"]["matchLabels"], labels) for b in budgets) == 1
    for policy in kind(layer, "NetworkPolicy"):
        labels = policy["spec"]["podSelector"].get("matchLabels")
        assert labels is None or any(fits(labels, p["metadata"]["labels"]) for p in pods), policy
        for rule in policy["spec"].get("ingress", []):
            assert {port["port"] for port in rule["ports"]} <= ports
    names = {service["metadata"]["name"]: service for service in kind(layer, "Service")}
    for ingress in kind(layer, "Ingress"):
        for path in ingress["spec"]["rules"][0]["http"]["paths"]:
            backend = path["backend"]["service"]
            assert backend["port"]["name"] in [p["name"] for p in names[backend["name"]]["spec"]["ports"]]


def test_everything_that_is_not_named_is_refused() -> None:
    everything = [p["spec"] for p in kind("base", "NetworkPolicy") if p["metadata"]["name"] == "nothing-else"]
    assert everything == [{"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}]


def test_the_autoscaler_counts_by_a_metric_that_there_is() -> None:
    (scaler,) = kind("overlays/large", "HorizontalPodAutoscaler")
    (metric,) = scaler["spec"]["metrics"]
    name = metric["pods"]["metric"]["name"]
    assert name.startswith("bugfeed_")
    registered = source("crates/gateway/src/events.rs")
    assert re.search(rf'"{name.removeprefix("bugfeed_")}"', registered), name
    (gateway,) = [w for w in workloads("overlays/large") if w["metadata"]["name"] == "gateway"]
    assert "replicas" not in gateway["spec"], "each apply would undo what the autoscaler did"
    environment = {v["name"]: v["value"] for v in pod(gateway)["containers"][0]["env"]}
    most = int(environment["BUGFEED_MAX_CONNECTIONS"])
    assert int(metric["pods"]["target"]["averageValue"]) * 2 <= most


def test_the_shim_has_a_standby_and_hooks_disks_of_their_own() -> None:
    by_name = {w["metadata"]["name"]: w for w in workloads("base")}
    assert by_name["shim"]["spec"]["replicas"] == 2
    hooks = by_name["hooks"]["spec"]
    (claim,) = hooks["volumeClaimTemplates"]
    mounts = {m["name"]: m["mountPath"] for m in pod(by_name["hooks"])["containers"][0]["volumeMounts"]}
    environment = {v["name"]: v["value"] for v in pod(by_name["hooks"])["containers"][0]["env"]}
    assert environment["BUGFEED_SPOOL_DIR"].startswith(mounts[claim["metadata"]["name"]] + "/")
    assert hooks["serviceName"] == "hooks-admin"


def test_hooks_have_the_sources_of_the_sample() -> None:
    assert (FOLDER / "base/hooks.toml").read_text() == (DEPLOY / "hooks.toml").read_text()
