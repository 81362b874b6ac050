"""Memory that a step freed serves the next one."""

from __future__ import annotations

import subprocess
import sys

import pytest

MB = 2**20
ROUNDS = 20
CODE = f"""
import resource, sys
import torch
if sys.argv[1] == "keep":
    from raykd.models.heap import keep_freed_memory
    assert keep_freed_memory()
def step():
    torch.ones({8 * MB}).add(1.0)
for _ in range(10):
    step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range({ROUNDS}):
    step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def page_faults(how: str) -> int:
    done = subprocess.run(
        [sys.executable, "-c", CODE, how], capture_output=True, text=True, check=True, timeout=120
    )
    return int(done.stdout)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's malloc")
def test_a_step_takes_the_pages_of_the_step_before() -> None:
    # Each step maps and clears two tensors of 32 MiB unless the heap keeps them.
    pages = ROUNDS * 64 * MB / 4096
    assert page_faults("give back") > pages / 2
    assert page_faults("keep") < pages / 8
