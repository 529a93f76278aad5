"""Dockerfile and .dockerignore: without a container engine, commands are run in a folder, what they make in a chroot.

What is not tested: the base images themselves. In place of the last one stand glibc, libgcc and nothing else.
"""

import fnmatch
import json
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest
from files import ROOT, options, program, skipped, tool

# What is in gcr.io/distroless/cc-debian12 of the libraries that a Rust program may need.
LIBRARIES = ["ld-linux-x86-64.so.2", "ld-linux-aarch64.so.1", "libc.so.6", "libm.so.6", "libgcc_s.so.1"]
LIBRARIES += ["libdl.so.2", "libpthread.so.0", "librt.so.1", "libresolv.so.2", "libnss_dns.so.2", "libnss_files.so.2"]


def instructions() -> list[tuple[str, str, str]]:
    """Stage, instruction, arguments."""
    lines = [line for line in (ROOT / "Dockerfile").read_text().splitlines() if line and not line.startswith("#")]
    found, stage = [], "last"
    for line in "\n".join(lines).replace("\\\n", "").splitlines():
        word, rest = line.strip().split(None, 1)
        if word == "FROM":
            stage = rest.split(" AS ")[1] if " AS " in rest else "last"
        found.append((stage, word, rest))
    return found


def of(stage: str, word: str) -> list[str]:
    return [rest for where, which, rest in instructions() if (where, which) == (stage, word)]


def is_ignored(path: str, patterns: list[str]) -> bool:
    """As Docker does it: the last pattern that fits the path or a folder above it decides."""
    parents = [path] + [str(parent) for parent in Path(path).parents if str(parent) != "."]
    ignored = False
    for pattern in patterns:
        bare = pattern.lstrip("!").removeprefix("**/")
        anywhere = "**/" in pattern

        def fits(name: str, bare: str = bare, anywhere: bool = anywhere) -> bool:
            if anywhere:
                return fnmatch.fnmatch(Path(name).name, bare)
            return name.count("/") == bare.count("/") and fnmatch.fnmatch(name, bare)

        if any(fits(name) for name in parents):
            ignored = not pattern.startswith("!")
    return ignored


@pytest.fixture(scope="module")
def context(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the builder is sent."""
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    patterns = [line for line in lines if line and not line.startswith("#")]
    folder = tmp_path_factory.mktemp("context")
    listed = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    names = subprocess.run(listed, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\0")
    for name in filter(None, names):
        if (ROOT / name).is_file() and not is_ignored(name, patterns):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    for name in ["target/debug/bugfeed", "clients/js/node_modules/ws/index.js", "deploy/compose/secrets/shim.env"]:
        assert is_ignored(name, patterns), name
    return folder


def test_the_context_has_what_the_build_reads_and_little_else(context: Path) -> None:
    assert sum(file.stat().st_size for file in context.rglob("*") if file.is_file()) < 20_000_000
    # With its lock file, Cargo finds every member, target and dependency.
    metadata = ["cargo", "metadata", "--locked", "--offline", "--format-version", "1", "--no-deps"]
    told = subprocess.run(metadata, cwd=context, capture_output=True, text=True)
    assert told.returncode == 0, told.stderr
    packages = json.loads(told.stdout)["packages"]
    linked = {"bugfeed", "bugfeed-shim", "bugfeed-hooks", "bugfeed-gateway", "bugfeed-client"}
    assert linked <= {package["name"] for package in packages}
    for package in packages:
        for target in package["targets"]:
            if set(target["kind"]) & {"lib", "bin"} and package["name"].startswith("bugfeed"):
                assert Path(target["src_path"]).is_file(), target
    folders = ["src", "crates", "shim/src", "hooks/src", "clients/rust/src"]
    for source in (file for folder in folders for file in (context / folder).rglob("*.rs")):
        for included in re.findall(r'include_(?:str|bytes)!\("([^"]+)"\)', source.read_text()):
            assert (source.parent / included).is_file(), f"{source}: {included}"


def test_hadolint_finds_nothing() -> None:
    hadolint = Path(sys.executable).parent / "hadolint"
    if not hadolint.exists():
        skipped("hadolint is not installed; install tests/deploy/requirements.txt")
    # DL3008: which busybox it is does not matter, and one that is pinned cannot be had after the next fix of it.
    said = subprocess.run([hadolint, "--ignore", "DL3008", ROOT / "Dockerfile"], capture_output=True, text=True)
    assert said.returncode == 0, said.stdout + said.stderr


def test_the_build_makes_what_is_distributed() -> None:
    (build,) = of("build", "RUN")
    assert "cargo build --locked --profile dist --bins -p bugfeed -p bugfeed-shim" in build
    wanted = re.search(r'^rust-version = "([0-9.]+)"', (ROOT / "Cargo.toml").read_text(), re.M)
    (base,) = of("build", "FROM")
    assert wanted and base.startswith(f"rust:{wanted[1]}-")
    # The C library of the builder is that of the last stage: bookworm is Debian 12.
    (last,) = of("last", "FROM")
    assert "bookworm" in base and "debian12:nonroot" in last


def moved(word: str, places: list[tuple[str, str]]) -> str:
    """A path of a builder, where it is here."""
    for inside_, here in places:
        if word == inside_ or word.startswith(inside_ + "/"):
            return here + word.removeprefix(inside_)
    return word


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The last stage's file system, made by the commands of all stages."""
    if os.geteuid() != 0:
        skipped("only root may make a file system and go into it")
    folder = tmp_path_factory.mktemp("image")
    os.chmod(folder.parent, 0o755)
    stages, root = {name: folder / name for name in ["build", "wget"]}, folder / "root"
    busybox = tool("busybox", "the Debian package busybox-static")
    for stage, made in stages.items():
        made.mkdir()
        (run,) = of(stage, "RUN")
        for command in run.split("&&"):
            words = shlex.split(command)
            if words[0] != "install":
                continue
            places = [("/out", f"{made}/out"), ("/bin/busybox", busybox)]
            places += [(f"target/dist/{name}", str(program(name))) for name in ["bugfeed", "bugfeed-shim"]]
            subprocess.run([moved(word, places) for word in words], check=True)
    libraries = root / "lib"
    libraries.mkdir(parents=True)
    (root / "lib64").symlink_to("lib")
    known = subprocess.run(["/sbin/ldconfig", "-p"], capture_output=True, text=True, check=True).stdout
    for name in LIBRARIES:
        path = re.search(rf"\s{re.escape(name)} \(.*64.*\) => (\S+)", known)
        if path:
            shutil.copy2(path[1], libraries / name)
    for copy in of("last", "COPY"):
        words = shlex.split(copy)
        flags = dict(word.removeprefix("--").split("=") for word in words if word.startswith("--"))
        from_, to = [word for word in words if not word.startswith("--")]
        target = root / to.lstrip("/")
        shutil.copytree(f"{stages[flags['from']]}{from_}", target, dirs_exist_ok=True)
        if "chown" in flags:
            os.chown(target, *map(int, flags["chown"].split(":")))
    for path in [root, *root.rglob("*")]:
        if path.is_dir():
            path.chmod(0o755)
    return root


def inside(image: Path, words: list[str], **more: object) -> "subprocess.Popen[str]":
    """A program as the image's user, who owns nothing but the data folder."""
    (user,) = of("last", "USER")
    command = ["chroot", f"--userspec={user}", str(image), *words]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **more)


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def test_the_image_runs_as_nobody_and_is_healthy(image: Path) -> None:
    entry = json.loads(of("last", "ENTRYPOINT")[0]) + json.loads(of("last", "CMD")[0])
    (listen, admin) = free_port(), free_port()
    environment = {"BUGFEED_LISTEN": f"127.0.0.1:{listen}", "BUGFEED_ADMIN_LISTEN": f"127.0.0.1:{admin}"}
    environment["PATH"] = os.environ["PATH"]
    check = json.loads(re.search(r"CMD (\[.*\])", of("last", "HEALTHCHECK")[0])[1])
    assert "8845" in check[-1] and check[-1].endswith("/livez")
    check[-1] = check[-1].replace("8845", str(admin))
    before = {path for path in image.rglob("*")}
    unhealthy = inside(image, check)
    assert unhealthy.wait(10) != 0, "nobody listens yet"
    serve = inside(image, entry, env=environment)
    try:
        until = time.monotonic() + 20
        while (healthy := inside(image, check)).wait(10) != 0:
            assert serve.poll() is None and time.monotonic() < until, healthy.stdout.read()
        page = urllib.request.urlopen(f"http://127.0.0.1:{listen}/page.json", timeout=10).read()
        assert b'"demo"' in page
        made = {path for path in image.rglob("*")} - before
        assert made and all(image / "var/lib/bugfeed" in path.parents for path in made), made
        assert {path.stat().st_uid for path in made} == {65532}
    finally:
        serve.terminate()
    said = serve.communicate(timeout=20)[0]
    assert serve.returncode == 0, said
    shim = inside(image, ["/usr/local/bin/bugfeed-shim", "--version"])
    assert shim.wait(10) == 0


def test_there_is_nothing_else_to_run(image: Path) -> None:
    programs = [path.name for path in (image / "usr/local/bin").iterdir()]
    assert sorted(programs) == ["bugfeed", "bugfeed-shim", "wget"]
    assert of("last", "USER") == ["65532:65532"] and not of("last", "RUN")


def test_the_image_says_nothing_that_is_no_option() -> None:
    said = json.loads(of("last", "CMD")[0])
    assert said[0] == "serve" and not of("last", "ENV")
    assert "BUGFEED_DATA_DIR" in options("bugfeed", "serve") and "--data-dir" in said
