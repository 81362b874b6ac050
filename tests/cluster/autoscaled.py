"""Ray's own autoscaler on this machine: a head without CPUs, and nodes that are processes here."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import threading
from collections import Counter
from pathlib import Path
from typing import Any

import psutil
import yaml

from .nodes import BIN, free_ports, wait_for

HEAD_ID = "f" * 51 + "00000"
STORE_BYTES = 100_000_000
RUN_S = 240
"""No run takes a third of this on two idle cores."""


def node_type(role: str, cpus: float, most: int) -> dict[str, Any]:
    """A node type of a cluster file."""
    return {
        "resources": {"CPU": cpus, "object_store_memory": STORE_BYTES},
        "labels": {"raykd-role": role},
        "node_config": {},
        "min_workers": 0,
        "max_workers": most,
    }


class AutoscaledCluster:
    """A head whose autoscaler starts and ends nodes.

    Args:
        node_types: Worker types by name.
        deliver: Types of which the provider has only so many nodes.
    """

    def __init__(self, node_types: dict[str, Any], deliver: dict[str, int]) -> None:
        # Sockets lie in it, and their paths may have no more than 107 characters.
        self.place = Path(tempfile.mkdtemp(prefix="rk", dir="/tmp"))
        (self._port,) = free_ports(1)
        self.address = f"{_own_ip()}:{self._port}"
        config = self.place / "cluster.yaml"
        config.write_text(yaml.safe_dump(self._config(node_types, deliver)))
        self._start(config)

    def _config(self, node_types: dict[str, Any], deliver: dict[str, int]) -> dict[str, Any]:
        head = {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0}
        provider = {
            "type": "external",
            "module": "tests.cluster.providers.ScarceProvider",
            "launch_multiple": True,
            # A node that comes up slowly is not to be set up over ssh.
            "disable_node_updaters": True,
            "head_node_id": HEAD_ID,
            "gcs_address": self.address,
            "deliver": deliver,
        }
        # Ray's autoscaler process refuses a configuration that lacks any of these.
        commands = ("initialization", "setup", "head_setup", "worker_setup")
        starts = ("head_start_ray", "worker_start_ray")
        return {
            "cluster_name": "here",
            "max_workers": 8,
            "idle_timeout_minutes": 0.25,
            "provider": provider,
            "auth": {},
            "head_node_type": "ray.head.default",
            "available_node_types": {"ray.head.default": head, **node_types},
            **{f"{name}_commands": [] for name in (*commands, *starts)},
            **{name: [] for name in ("cluster_synced_files", "rsync_exclude", "rsync_filter")},
            "file_mounts": {},
            "file_mounts_sync_continuously": False,
            "upscaling_speed": 1.0,
            "docker": {},
        }

    def _start(self, config: Path) -> None:
        environment = self.environment() | {
            "RAY_FAKE_CLUSTER": "1",
            "RAY_enable_autoscaler_v2": "1",
            "RAY_CLOUD_INSTANCE_ID": HEAD_ID,
            "RAY_OVERRIDE_NODE_ID_FOR_TESTING": HEAD_ID,
            "PYTHONPATH": str(Path(__file__).parents[2]),
        }
        log = self.place / "head.log"
        command = [str(BIN / "ray"), "start", "--head", "--block", f"--port={self._port}"]
        command += ["--num-cpus=0", f"--temp-dir={self.place / 'r'}", "--include-dashboard=false"]
        command += [f"--autoscaling-config={config}", f"--object-store-memory={STORE_BYTES}"]
        command += ["--disable-usage-stats", f"--ray-client-server-port={free_ports(1)[0]}"]
        with log.open("wb") as out:
            self._head = subprocess.Popen(
                command, env=environment, stdout=out, stderr=subprocess.STDOUT
            )
        wait_for(lambda: "Ray runtime started" in log.read_text(), f"ray start ({log})")
        wait_for(self._scales, f"the autoscaler ({log})", 30)

    def _scales(self) -> bool:
        """Whether the autoscaler reports; the head ends with it where it cannot start."""
        assert self._head.poll() is None, (self.place / "head.log").read_text()
        return bool(self.status().autoscaling_state.autoscaler_state_version)

    @staticmethod
    def environment() -> dict[str, str]:
        """What processes see; nothing of another Ray."""
        kept = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
        return kept | {"RAY_AUTH_MODE": "disabled"}

    def status(self) -> Any:
        """What the cluster says of itself."""
        from ray._raylet import GcsClient
        from ray.core.generated.autoscaler_pb2 import GetClusterStatusReply

        answer = GcsClient(self.address).get_cluster_status(timeout_s=10)
        return GetClusterStatusReply.FromString(answer)

    def nodes(self) -> Counter[str]:
        """Nodes that are up, by type; the head has none."""
        return Counter(
            node.ray_node_type_name
            for node in self.status().cluster_resource_state.node_states
            if node.status != 2 and node.ray_node_type_name
        )

    def run(self, job_file: Path) -> tuple[subprocess.CompletedProcess[str], Counter[str]]:
        """`raykd run` on it, and the most nodes of each type that were up meanwhile."""
        ended, most = threading.Event(), Counter[str]()

        def look() -> None:
            while not ended.wait(0.5):
                most.update(self.nodes() - most)

        watch = threading.Thread(target=look, daemon=True)
        watch.start()
        command = [sys.executable, "-m", "raykd", "run", str(job_file), "--address", self.address]
        try:
            done = subprocess.run(
                command,
                env=self.environment(),
                capture_output=True,
                text=True,
                timeout=RUN_S,
                check=False,
            )
        finally:
            ended.set()
            watch.join()
        return done, most

    def stop(self) -> None:
        """End what was started here: the head, its autoscaler, and the nodes it started."""
        own = psutil.Process(self._head.pid)
        started = [*own.children(recursive=True), own]
        for process in started:
            try:
                process.kill()
            except psutil.NoSuchProcess:
                continue
        self._head.wait()
        psutil.wait_procs(started, timeout=20)
        shutil.rmtree(self.place, ignore_errors=True)


def _own_ip() -> str:
    from ray._private.services import get_node_ip_address

    return str(get_node_ip_address())
