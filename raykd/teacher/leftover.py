"""A teacher that a killed driver left behind: Serve keeps it running, and nobody asks it."""

from __future__ import annotations

from ray import serve


def remove(app: str) -> bool:
    """Take down the app of this name and free what it holds; whether there was one.

    Only who holds the run may call this: then no living driver asks that teacher.
    """
    if app not in serve.status().applications:
        return False
    serve.delete(app)
    return True
