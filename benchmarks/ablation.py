"""Question: at equal tokens, which loss brings the student closest to its teacher?

Reads the reports that `make ablation` leaves and prints one table over all seeds: mean and, in
brackets, the smallest and the largest. `python benchmarks/ablation.py RUNS_DIR`.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from pathlib import Path
from statistics import mean
from typing import Any

VARIANTS = ("hard labels", "distillation", "mixture")
MEASURES = (
    ("kl_to_teacher", "KL to teacher", "{:.3f}"),
    ("top1_agreement", "top-1 agreement", "{:.3f}"),
    ("perplexity", "perplexity", "{:,.1f}"),
)


def main() -> None:
    """Print the table as Markdown and write it as JSON beside the other results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", type=Path, nargs="?", default=Path("runs"))
    parser.add_argument("--write", type=Path, default=Path("benchmarks/results/ablation.json"))
    arguments = parser.parse_args()
    found = read(arguments.runs)
    if not found:
        raise SystemExit(f"{arguments.runs}: no ablation-*/report.json; run `make ablation` first")
    print("\n".join(table(found)))
    arguments.write.parent.mkdir(parents=True, exist_ok=True)
    arguments.write.write_text(json.dumps(found, indent=2) + "\n")


def read(runs: Path) -> list[dict[str, Any]]:
    """One entry a run: variant, seed, and what its student scored on each set."""
    found = []
    for file in sorted(runs.glob("ablation-*/report.json")):
        report = json.loads(file.read_text())
        alpha = report["job"]["loss"]["alpha"]
        found.append(
            {
                "variant": {1.0: VARIANTS[0], 0.0: VARIANTS[1]}.get(alpha, VARIANTS[2]),
                "seed": report["job"]["seed"],
                "steps": report["training"]["steps"],
                "tokens": report["training"]["tokens"],
                "scores": {
                    name: {role: scores["models"][role] for role in ("teacher", "student")}
                    for name, scores in report["evaluation"].items()
                },
            }
        )
    return found


def table(found: list[dict[str, Any]]) -> list[str]:
    """Markdown lines: one row a set and variant."""
    grouped: dict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
    for run in found:
        for name, scores in run["scores"].items():
            grouped[name, run["variant"]].append(scores["student"])
    lines = [
        "| set | loss | seeds | " + " | ".join(title for _, title, _ in MEASURES) + " |",
        "|---|---|---|" + "---|" * len(MEASURES),
    ]
    for (name, variant), students in sorted(grouped.items(), key=_order):
        cells = [_cell([student[key] for student in students], form) for key, _, form in MEASURES]
        lines.append(f"| {name} | {variant} | {len(students)} | " + " | ".join(cells) + " |")
    return lines


def _order(entry: tuple[tuple[str, str], Any]) -> tuple[bool, str, int]:
    (name, variant), _ = entry
    return name != "heldout", name, VARIANTS.index(variant)


def _cell(values: list[float], form: str) -> str:
    spread = f" ({form.format(min(values))} to {form.format(max(values))})"
    return form.format(mean(values)) + (spread if len(values) > 1 else "")


if __name__ == "__main__":
    main()
