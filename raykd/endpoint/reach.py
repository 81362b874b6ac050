"""Whether an endpoint answers, and has the model, before anything is paid for."""

from __future__ import annotations

import asyncio
from typing import Final

from raykd.config.teacher import TeacherConfig
from raykd.endpoint.asker import key_of
from raykd.endpoint.caller import Caller

WAIT_S: Final = 20.0
SHOWN: Final = 5


def reach(teacher: TeacherConfig) -> str:
    """What an endpoint says of itself, in words; asks for its list of models, which is free.

    Args:
        teacher: The job's; `engine: openai`.

    Raises:
        TeacherError: It cannot be reached, or refuses the key.
        JobError: The key is not here.
    """
    endpoint = teacher.endpoint
    assert endpoint is not None
    caller = Caller(endpoint.base_url, key_of(endpoint), endpoint.api_key_env, WAIT_S)

    async def look() -> list[str] | None:
        try:
            return await caller.models()
        finally:
            await caller.close()

    names = asyncio.run(look())
    if names is None:
        return "it answers, and lists no models"
    if teacher.model in names:
        return "it answers, and has the model"
    more = ", ..." if len(names) > SHOWN else ""
    return (
        f"it answers, and does not list {teacher.model!r} among its models "
        f"({', '.join(names[:SHOWN])}{more})"
    )
