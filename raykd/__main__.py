"""`python -m raykd`, as a Ray job's entrypoint runs it."""

from raykd.cli import app

app(prog_name="raykd")
