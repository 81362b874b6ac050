"""What raykd reserves for its own light processes, beside what the job says; in CPUs."""

from __future__ import annotations

REPLICA_CPUS = 0.01
"""A teacher replica's own actor, which only passes tables on to its shards."""
READ_CPUS = 0.05
"""Naming the next block of rows."""
