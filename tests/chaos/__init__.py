"""Processes of a run are killed at chosen moments; the run must end as if nothing had happened."""
