"""From a YAML file and overrides to a job; and everything that can be wrong with them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from raykd.config.job import Job
from raykd.config.load import dump_job, load_job
from raykd.errors import JobError

ROOT = Path(__file__).parents[3]
JOBS = sorted((ROOT / "jobs").glob("**/*.yaml"))

WriteJob = Callable[..., Path]
Tree = dict[str, Any]

CUT = {"start": "teacher", "layers": 1}


def set_at(tree: Tree, dotted: str, value: Any) -> Tree:
    *sections, field = dotted.split(".")
    spot = tree
    for section in sections:
        spot = spot.setdefault(section, {})
    spot[field] = value
    return tree


def line_of(path: Path, text: str) -> int:
    """Number of the only line that holds `text`."""
    lines = path.read_text().splitlines()
    (found,) = [i for i, line in enumerate(lines, 1) if text in line]
    return found


def line_at(path: Path, dotted: str) -> int:
    """Line of a field in a file that `write_job` wrote: two blanks a level."""
    lines, line = path.read_text().splitlines(), 0
    for level, part in enumerate(dotted.split(".")):
        line = next(
            i
            for i, text in enumerate(lines)
            if i >= line and text.startswith(f"{'  ' * level}{part}:")
        )
    return line + 1


def complaint(path: Path, overrides: list[str] | None = None) -> str:
    with pytest.raises(JobError) as caught:
        load_job(path, overrides)
    assert caught.value.exit_code == 2
    return str(caught.value)


@pytest.mark.parametrize("path", JOBS, ids=lambda p: str(p.relative_to(ROOT)))
def test_every_shipped_job_loads(path: Path) -> None:
    assert isinstance(load_job(path), Job)


def test_jobs_are_shipped() -> None:
    assert ROOT / "jobs" / "quickstart.yaml" in JOBS


def test_values_arrive(write_job: WriteJob, job_tree: Tree) -> None:
    job = load_job(write_job(job_tree))
    assert job.name == "tiny"
    assert job.train.global_batch == 4
    assert job.train.optimizer.lr == 1e-3
    assert job.student.init.start == "pretrained"
    assert job.train.epochs == 1  # a default


@pytest.mark.parametrize(
    ("wrong", "right"),
    [
        ("train.global_bach", "global_batch"),
        ("teacher.replica", "replicas"),
        ("studnet", "student"),
        ("data.corpus.fromat", "format"),
        ("train.optimizer.weigth_decay", "weight_decay"),
        ("student.init.modle", "model"),
    ],
)
def test_a_misspelt_key_names_the_nearest_and_its_line(
    wrong: str, right: str, write_job: WriteJob, job_tree: Tree
) -> None:
    path = write_job(set_at(job_tree, wrong, 4242))
    line = line_of(path, "4242")
    assert f"{path}:{line}: {wrong}: unknown key; did you mean {right!r}?" in complaint(path)


def test_a_misspelt_key_in_an_extra_set(write_job: WriteJob, job_tree: Tree, corpus_file) -> None:
    job_tree["evaluation"]["sets"] = {"more": {"source": str(corpus_file), "splt": "x"}}
    path = write_job(job_tree)
    message = complaint(path)
    assert f":{line_of(path, 'splt')}: evaluation.sets.more.splt: unknown key" in message
    assert "did you mean 'split'?" in message


def test_a_key_like_no_other_lists_what_is_known(write_job: WriteJob, job_tree: Tree) -> None:
    message = complaint(write_job(set_at(job_tree, "loss.zzz", 1)))
    assert "loss.zzz: unknown key; known here: alpha, beta, divergence, head_mass, " in message


def test_all_faults_are_told_at_once(write_job: WriteJob, job_tree: Tree) -> None:
    set_at(job_tree, "loss.alpha", 2)
    set_at(job_tree, "train.epochs", "many")
    del job_tree["teacher"]["model"]
    message = complaint(write_job(job_tree))
    for field in ("loss.alpha", "train.epochs", "teacher.model"):
        assert f": {field}: " in message


def test_a_missing_key(write_job: WriteJob, job_tree: Tree) -> None:
    del job_tree["data"]["corpus"]["source"]
    path = write_job(job_tree)
    line = line_of(path, "corpus:")
    assert complaint(path) == f"{path}:{line}: data.corpus.source: missing; this key is required"


@pytest.mark.parametrize(
    ("field", "value", "says"),
    [
        ("train.epochs", "many", "valid integer"),
        ("train.epochs", 1.5, "valid integer"),
        ("train.epochs", [1], "valid integer"),
        ("train.optimizer.lr", "fast", "valid number"),
        ("train.optimizer.betas", [0.9], "betas.1: missing"),
        ("train.optimizer.betas", [0.9, 1.0], "each beta lies in [0, 1)"),
        ("teacher", "big", "valid dictionary"),
        ("teacher.device", "tpu", "'cpu' or 'gpu'"),
        ("student.zero_stage", 4, "0, 1, 2 or 3"),
        ("name", 7, "valid string"),
        ("loss.divergence", 7, "valid string"),
    ],
)
def test_a_wrong_type(
    field: str, value: Any, says: str, write_job: WriteJob, job_tree: Tree
) -> None:
    path = write_job(set_at(job_tree, field, value))
    message = complaint(path)
    assert f"{field}" in message
    assert says in message
    assert message.startswith(f"{path}:")
    assert message.split(":")[1].isdigit()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("loss.alpha", 2),
        ("loss.alpha", -0.1),
        ("loss.temperature", 0),
        ("loss.temperature", float("inf")),
        ("loss.temperature", float("nan")),
        ("loss.beta", 1.0),
        ("seed", -1),
        ("train.global_batch", 0),
        ("train.optimizer.lr", 0),
        ("train.gradient_clipping", -1),
        ("data.sequence_length_tokens", 4),
        ("evaluation.heldout_fraction", 1.0),
        ("checkpoint.keep", 0),
        ("soft_targets.top_k", 0),
        ("teacher.tensor_parallel", 0),
        ("stream.num_loaders", 0),
    ],
)
def test_out_of_range(field: str, value: float, write_job: WriteJob, job_tree: Tree) -> None:
    path = write_job(set_at(job_tree, field, value))
    message = complaint(path)
    assert f"{path}:{line_at(path, field)}: {field}: input should be " in message
    assert f"found {value!r}" in message


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_the_ends_of_a_closed_range_are_allowed(
    value: float, write_job: WriteJob, job_tree: Tree
) -> None:
    assert load_job(write_job(set_at(job_tree, "loss.alpha", value))).loss.alpha == value


def test_a_key_given_twice(write_job: WriteJob, job_tree: Tree) -> None:
    path = write_job(job_tree)
    text = path.read_text().replace("  global_batch: 4\n", "  global_batch: 4\n  global_batch: 8\n")
    path.write_text(text)
    second = max(i for i, line in enumerate(text.splitlines(), 1) if "global_batch" in line)
    assert complaint(path) == f"{path}:{second}: 'global_batch' is given twice; keep one"


@pytest.mark.parametrize(
    ("text", "line"),
    [("name: a\ndata: {corpus: [\n", 3), ("name:\n\tfoo: 1\n", 2), ("a: b: c\n", 1)],
)
def test_broken_yaml(text: str, line: int, tmp_path: Path) -> None:
    path = tmp_path / "job.yaml"
    path.write_text(text)
    assert complaint(path).startswith(f"{path}:{line}: not valid YAML: ")


def test_a_date_that_is_none(tmp_path: Path) -> None:
    path = tmp_path / "job.yaml"
    path.write_text("name: 2024-13-45\n")
    assert "not valid YAML" in complaint(path)


@pytest.mark.parametrize(
    ("text", "found"), [("", "nothing"), ("- a\n- b\n", "list"), ("just words\n", "str")]
)
def test_no_mapping(text: str, found: str, tmp_path: Path) -> None:
    path = tmp_path / "job.yaml"
    path.write_text(text)
    assert complaint(path) == f"{path}: a job file is a mapping of sections; found {found}"


def test_keys_that_are_no_names(write_job: WriteJob, job_tree: Tree) -> None:
    path = write_job({**job_tree, 7: "seven"})
    assert "7: keys should be strings" in complaint(path)


def test_not_utf8(tmp_path: Path) -> None:
    path = tmp_path / "job.yaml"
    path.write_bytes(b"name: caf\xe9\n")
    assert complaint(path) == f"{path}: not UTF-8 at byte 9; save it as UTF-8"


def test_no_such_file(tmp_path: Path) -> None:
    path = tmp_path / "none.yaml"
    assert complaint(path) == f"{path}: no such job file"


def test_a_directory_in_place_of_a_file(tmp_path: Path) -> None:
    assert f"{tmp_path}: cannot be read (Is a directory)" in complaint(tmp_path)


@pytest.mark.parametrize(
    ("override", "read", "value"),
    [
        ("student.zero_stage=3", lambda j: j.student.zero_stage, 3),
        ("train.optimizer.lr=1e-4", lambda j: j.train.optimizer.lr, 1e-4),
        ("train.optimizer.lr=2.5E-05", lambda j: j.train.optimizer.lr, 2.5e-5),
        ("train.optimizer.betas=[0.8, 0.9]", lambda j: j.train.optimizer.betas, (0.8, 0.9)),
        ("name=other", lambda j: j.name, "other"),
        ("name=inf", lambda j: j.name, "inf"),
        ("tracking.tensorboard=true", lambda j: j.tracking.tensorboard, True),
        ("tracking.wandb.project=p", lambda j: getattr(j.tracking.wandb, "project", 0), "p"),
        ("student.labels.zone=a=b", lambda j: j.student.labels, {"zone": "a=b"}),
        ("train.max_steps=", lambda j: j.train.max_steps, None),
        ("loss={alpha: 0.25}", lambda j: j.loss.alpha, 0.25),
    ],
)
def test_overrides(
    override: str,
    read: Callable[[Job], Any],
    value: Any,
    write_job: WriteJob,
    job_tree: Tree,
) -> None:
    path = write_job(job_tree)
    assert read(load_job(path, [override])) == value
    assert read(load_job(path)) != value


def test_the_last_override_wins(write_job: WriteJob, job_tree: Tree) -> None:
    job = load_job(write_job(job_tree), ["train.epochs=2", "train.epochs=3"])
    assert job.train.epochs == 3


def test_a_number_in_scientific_notation_in_a_model_configuration(
    write_job: WriteJob, job_tree: Tree
) -> None:
    """There is no field there whose type would turn text into a number."""
    job_tree["student"]["init"] = {"start": "config", "config": {"model_type": "llama"}}
    path = write_job(job_tree)
    path.write_text(
        path.read_text().replace("model_type: llama", "model_type: llama\n      rms_norm_eps: 1e-5")
    )
    init: Any = load_job(path, ["student.init.config.rope_theta=5e5"]).student.init
    assert init.config == {"model_type": "llama", "rms_norm_eps": 1e-5, "rope_theta": 5e5}


@pytest.mark.parametrize("text", ["train.epochs", "=3", "train..epochs=3", "train.=3", "x y"])
def test_an_override_without_key_or_value(text: str, write_job: WriteJob, job_tree: Tree) -> None:
    message = complaint(write_job(job_tree), [text])
    assert message == f"--set {text}: write it as section.key=value"


def test_an_override_with_broken_yaml(write_job: WriteJob, job_tree: Tree) -> None:
    path = write_job(job_tree)
    assert "the value is not valid YAML" in complaint(path, ["train.epochs=[1"])


def test_an_override_below_a_value(write_job: WriteJob, job_tree: Tree) -> None:
    path = write_job(job_tree)
    assert complaint(path, ["seed.a=3"]) == "--set seed.a=3: seed is a value, not a section"


def test_a_wrong_override_names_itself_and_not_the_file(
    write_job: WriteJob, job_tree: Tree
) -> None:
    message = complaint(write_job(job_tree), ["loss.alpha=2"])
    assert message.startswith("--set loss.alpha=2: loss.alpha: ")
    message = complaint(write_job(job_tree), ["train.optimiser.lr=1e-4"])
    assert message == (
        "--set train.optimiser.lr=1e-4: train.optimiser: unknown key; did you mean 'optimizer'?"
    )


@pytest.mark.parametrize(
    ("init", "expected"),
    [
        ({"start": "pretrained"}, "student.init.model: missing"),
        ({"start": "config"}, "student.init.config: missing"),
        ({"start": "config", "config": 3}, "student.init.config: input should be a valid dict"),
        ({"start": "teacher"}, "student.init.layers: missing"),
        ({"start": "teacher", "layers": "x"}, "student.init.layers: input should be a valid int"),
        ({"start": "teacher", "layers": [1, "b"]}, "student.init.layers.1: input should be a val"),
        ({"start": "teacher", "layers": 1, "widths": {"a": "b"}}, "student.init.widths.a: input"),
        (
            {"start": "teacher", "layers": 1, "width": {}},
            "student.init.width: unknown key; did you mean 'widths'?",
        ),
        (
            {"start": "config", "config": {}, "layers": 2},
            "student.init.layers: unknown key; known here: config, start",
        ),
        ({"start": "scratch"}, "student.init.start: choose 'pretrained', 'config', 'teacher'"),
        ({"layers": 2}, "student.init.start: choose 'pretrained', 'config', 'teacher'"),
        ("teacher", "student.init: input should be a valid dictionary"),
    ],
)
def test_the_students_start(init: Any, expected: str, write_job: WriteJob, job_tree: Tree) -> None:
    job_tree["student"]["init"] = init
    path = write_job(job_tree)
    message = complaint(path)
    assert f": {expected}" in message
    for word in (".teacher.", ".pretrained.", "config.config", "[int]", ".int:", ".str:"):
        assert word not in message
    assert all(line.startswith(f"{path}:") for line in message.splitlines())


@pytest.mark.parametrize(
    ("changes", "key", "says"),
    [
        (
            {"train.global_batch": 6, "train.micro_batch": 4},
            "global_batch:",
            "train.global_batch (6) must be a multiple of student.num_workers x "
            "train.micro_batch (1 x 4 = 4)",
        ),
        (
            {"train.global_batch": 4, "student.num_workers": 3},
            "global_batch:",
            "(3 x 2 = 6)",
        ),
        ({"student.init": CUT, "student.lora": {"r": 2}}, "lora:", "remove `lora`"),
        ({"student.offload": "all"}, "student:", "`offload: all` needs `zero_stage: 3`"),
        (
            {"student.offload": "optimizer", "student.zero_stage": 0},
            "student:",
            "needs `zero_stage` 1, 2 or 3",
        ),
        ({"teacher.trust_remote_code": True}, "teacher:", "pin its `revision`"),
        ({"storage_path": "s3://bucket/runs"}, "storage_path:", "mount object storage"),
        (
            {"data.corpus.columns": {"completion": "c"}},
            "columns:",
            "`completion` needs its `prompt`",
        ),
        (
            {"data.corpus.columns": {"prompt": "p"}},
            "columns:",
            "`prompt` without `completion` has nothing to learn",
        ),
        ({"data.corpus.columns": {}}, "columns:", "choose one layout"),
        (
            {"data.corpus.columns": {"text": "t", "messages": "m"}},
            "columns:",
            "choose one layout",
        ),
        ({"data.pad_buckets_tokens": [64]}, "data:", "needs `packing: pad`"),
        (
            {"data.packing": "pad", "data.pad_buckets_tokens": [32, 48]},
            "data:",
            "end with `sequence_length_tokens` (64)",
        ),
        ({"evaluation.sets": {"heldout": {"source": "x"}}}, "evaluation:", "not `heldout`"),
        ({"evaluation.sets": {"../x": {"source": "x"}}}, "evaluation:", "set name '../x'"),
    ],
)
def test_rules_over_several_fields(
    changes: Tree, key: str, says: str, write_job: WriteJob, job_tree: Tree
) -> None:
    for dotted, value in changes.items():
        set_at(job_tree, dotted, value)
    path = write_job(job_tree)
    lines = path.read_text().splitlines()
    line = min(i for i, text in enumerate(lines, 1) if text.strip().startswith(key))
    message = complaint(path)
    assert message.startswith(f"{path}:{line}: ")
    assert says in message


def test_trusted_code_with_a_pin_is_allowed(make_job: Callable[[Tree], Job]) -> None:
    job = make_job({"teacher.trust_remote_code": True, "teacher.revision": "ab" * 20})
    assert job.teacher.trust_remote_code


@pytest.mark.parametrize("name", ["../x", "a/b", "a\\b", "..", ".x", "", "a b", "-x", "x" * 101])
def test_a_name_that_is_no_plain_directory(name: str, write_job: WriteJob, job_tree: Tree) -> None:
    path = write_job(set_at(job_tree, "name", name))
    assert complaint(path).startswith(f"{path}:1: name: a run's name is a directory's name")


@pytest.mark.parametrize("name", ["a", "7b", "kd-1.5_x", "x" * 100])
def test_plain_names(name: str, make_job: Callable[[Tree], Job]) -> None:
    assert make_job({"name": name}).name == name


def test_dumped_and_loaded_again_is_the_same_job(
    tmp_path: Path, write_job: WriteJob, job_tree: Tree
) -> None:
    set_at(job_tree, "train.optimizer.lr", 3e-5)
    set_at(job_tree, "train.optimizer.eps", 1e-12)
    set_at(job_tree, "student.init", {**CUT, "widths": {"intermediate_size": 48}})
    set_at(job_tree, "evaluation.sets", {"more": {"source": ["ä.txt", "b.txt"]}})
    set_at(job_tree, "tracking.mlflow", {"tracking_uri": "file:/x"})
    job = load_job(write_job(job_tree))
    again = tmp_path / "again.yaml"
    again.write_text(dump_job(job), encoding="utf-8")
    assert load_job(again) == job
    assert "ä.txt" in again.read_text(encoding="utf-8")


@pytest.mark.parametrize("path", JOBS, ids=lambda p: str(p.relative_to(ROOT)))
def test_shipped_jobs_survive_a_dump(path: Path, tmp_path: Path) -> None:
    job = load_job(path)
    again = tmp_path / "again.yaml"
    again.write_text(dump_job(job))
    assert load_job(again) == job
    assert list(yaml.safe_load(dump_job(job)))[:2] == ["name", "storage_path"]


def test_a_job_cannot_be_changed(make_job: Callable[[], Job]) -> None:
    from pydantic import ValidationError

    with pytest.raises(ValidationError):
        make_job().train.epochs = 3  # type: ignore[misc]


@pytest.mark.parametrize(
    ("changes", "temperatures", "needs_teacher"),
    [
        ({"loss.temperature": 1.0}, (1.0,), True),
        ({"loss.temperature": 2.0, "loss.alpha": 0.9}, (1.0, 2.0), True),
        ({"loss.alpha": 1.0}, (1.0,), False),
    ],
)
def test_what_follows_from_the_loss(
    changes: Tree,
    temperatures: tuple[float, ...],
    needs_teacher: bool,
    make_job: Callable[[Tree], Job],
) -> None:
    job = make_job(changes)
    assert job.temperatures == temperatures
    assert job.needs_teacher_for_training is needs_teacher


@pytest.mark.parametrize(
    ("cpus", "given", "threads"), [(0.25, None, 1), (2.5, None, 3), (1.0, 4, 4)]
)
def test_threads(
    cpus: float, given: int | None, threads: int, make_job: Callable[[Tree], Job]
) -> None:
    job = make_job(
        {
            "teacher.cpus_per_shard": cpus,
            "teacher.threads_per_shard": given,
            "student.cpus_per_worker": cpus,
            "student.threads_per_worker": given,
        }
    )
    assert job.teacher.threads == job.student.threads == threads
