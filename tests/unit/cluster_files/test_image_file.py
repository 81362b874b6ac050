"""The Dockerfile: what it copies, what it installs, who runs it."""

from __future__ import annotations

import re
import subprocess
from fnmatch import fnmatch

import ray
from cluster_folder import CLUSTER, IMAGE, ROOT, installed

from raykd import __version__

TEXT = (CLUSTER / "Dockerfile").read_text()


def instructions(name: str) -> list[str]:
    joined = TEXT.replace("\\\n", " ")
    return re.findall(rf"^{name} (.*)$", joined, flags=re.MULTILINE)


def test_hadolint_has_nothing_to_say() -> None:
    done = subprocess.run(
        [installed("hadolint"), str(CLUSTER / "Dockerfile")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "")


def test_it_is_built_under_the_name_that_the_files_have() -> None:
    assert f"-t {IMAGE}:{__version__} ." in TEXT


def test_everything_copied_is_there_and_sent_to_the_builder() -> None:
    ignored = (CLUSTER / "Dockerfile.dockerignore").read_text().splitlines()
    sent = [line[1:] for line in ignored if line.startswith("!")]
    assert "*" in ignored
    sources = [
        word
        for line in instructions("COPY")
        for word in line.split()[:-1]
        if not word.startswith("--")
    ]
    assert len(sources) >= 4
    for source in sources:
        assert (ROOT / source).exists(), source
        assert any(fnmatch(source, each) for each in sent), source


def test_versions_come_from_the_constraints() -> None:
    """So the image holds the Ray that this environment has, which clients must have too."""
    for line in instructions("RUN"):
        for install in re.findall(r"pip install ([^&]*)", line):
            assert "-c constraints.txt" in install
    pins = (ROOT / "constraints.txt").read_text()
    assert f"\nray=={ray.__version__}\n" in pins
    (base,) = instructions("FROM")
    assert re.fullmatch(r"python:3\.11\.\d+-slim-\w+", base), "the constraints are for Python 3.11"


def test_it_does_not_run_as_root() -> None:
    """By number, or Kubernetes's runAsNonRoot cannot tell."""
    (user,) = instructions("USER")
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", user)
    assert f"--uid {user.split(':')[0]}" in TEXT


def test_tools_that_the_launchers_need_are_in_it() -> None:
    (line,) = (each for each in instructions("RUN") if "apt-get install" in each)
    assert {"rsync", "openssh-client", "wget", "g++", "procps"} <= set(line.split())
