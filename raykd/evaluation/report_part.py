"""The base of everything that a report is made of."""

from __future__ import annotations

from pydantic import ConfigDict

from raykd.config.section import Section


class ReportPart(Section):
    """JSON has no infinity: it is written as the text `Infinity`, and read back."""

    model_config = ConfigDict(ser_json_inf_nan="strings", allow_inf_nan=True)
