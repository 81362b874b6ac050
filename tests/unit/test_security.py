"""What docs/security.md says of raykd's own code, a test for each sentence."""

from __future__ import annotations

import ast
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from raykd.errors import JobError, SubmissionError
from raykd.package_paths import resolve_package_path
from raykd.pipeline.run_dir import RunDirectory
from raykd.submission import request
from raykd.submission.packing import choose

ROOT = Path(__file__).parents[2]
SOURCES = sorted((ROOT / "raykd").rglob("*.py"))

PICKLE = ("pickle", "cPickle", "dill", "marshal", "shelve", "cloudpickle", "joblib")
SHELL = ("os.system", "os.popen", "commands.getoutput", "subprocess.getoutput")
BUILTINS = ("eval", "exec", "compile", "__import__")
ARCHIVES = ("tarfile", "zipfile", "shutil.unpack_archive", "extractall")
ALLOWED = {
    # The class of the engine, from the driver, through Ray's object store.
    ("raykd/teacher/replica.py", "unpickles"),
    # A file of the run's own checkpoint, whose sum has been compared; see docs/security.md.
    ("raykd/student/export.py", "torch.load without weights_only=True"),
}


def dotted(node: ast.AST) -> str:
    """The written name of what is called, such as `yaml.load`."""
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


def safe_loaders(tree: ast.AST) -> set[str]:
    """Names of YAML loaders of a file that make plain values only."""
    own = {
        node.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef)
        and {dotted(base) for base in node.bases} <= {"yaml.SafeLoader", "SafeLoader"}
        and node.bases
    }
    return own | {"yaml.SafeLoader", "SafeLoader"}


def dangers(source: str) -> Iterator[str]:
    """What a file does that could run what comes from outside."""
    tree = ast.parse(source)
    safe = safe_loaders(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield from _dangers_of_call(node, safe)


def _dangers_of_call(node: ast.Call, safe: set[str]) -> Iterator[str]:
    name = dotted(node.func)
    last = name.rsplit(".", 1)[-1]
    options = {word.arg: word.value for word in node.keywords}
    true = [n for n, v in options.items() if isinstance(v, ast.Constant) and v.value is True]
    if last in ("load", "loads", "Unpickler", "read_pickle") and (
        set(name.split(".")[:-1]) & set(PICKLE) or last in ("Unpickler", "read_pickle")
    ):
        yield "unpickles"
    if name in ("torch.load", "load_file_torch") and "weights_only" not in true:
        yield "torch.load without weights_only=True"
    if name in ("np.load", "numpy.load") and "allow_pickle" in true:
        yield "unpickles"
    if name.startswith("yaml.") and last.startswith(("load", "unsafe", "full", "compose", "parse")):
        given = [dotted(value) for value in [*options.values(), *node.args[1:]]]
        if not set(given) & safe:
            yield "YAML that makes objects"
    if name in SHELL or "shell" in true:
        yield "a shell"
    if name in BUILTINS:
        yield "runs text"
    if name.split(".")[0] in ARCHIVES or name in ARCHIVES or last in ("extractall", "extract"):
        yield "unpacks an archive"
    if "verify" in options and getattr(options["verify"], "value", True) is False:
        yield "TLS unchecked"


def test_nothing_from_outside_is_run() -> None:
    assert len(SOURCES) > 100
    found = {
        (str(path.relative_to(ROOT)), danger)
        for path in SOURCES
        for danger in dangers(path.read_text(encoding="utf-8"))
    }
    assert found == ALLOWED


@pytest.mark.parametrize(
    ("source", "danger"),
    [
        ("pickle.load(f)", "unpickles"),
        ("ray.cloudpickle.loads(b)", "unpickles"),
        ("pickle.Unpickler(f).load()", "unpickles"),
        ("pd.read_pickle(p)", "unpickles"),
        ("np.load(p, allow_pickle=True)", "unpickles"),
        ("torch.load(p)", "torch.load without weights_only=True"),
        ("torch.load(p, weights_only=False)", "torch.load without weights_only=True"),
        ("yaml.load(t)", "YAML that makes objects"),
        ("yaml.load(t, Loader=yaml.Loader)", "YAML that makes objects"),
        ("yaml.unsafe_load(t)", "YAML that makes objects"),
        ("class L(yaml.Loader): pass\nyaml.load(t, L)", "YAML that makes objects"),
        ("os.system(t)", "a shell"),
        ("subprocess.run(t, shell=True)", "a shell"),
        ("eval(t)", "runs text"),
        ("exec(compile(t, n, m))", "runs text"),
        ("tarfile.open(p).extractall(d)", "unpacks an archive"),
        ("shutil.unpack_archive(p)", "unpacks an archive"),
        ("requests.get(u, verify=False)", "TLS unchecked"),
    ],
)
def test_the_search_sees(source: str, danger: str) -> None:
    assert danger in set(dangers(source))


@pytest.mark.parametrize(
    "source",
    [
        "torch.load(p, weights_only=True)",
        "yaml.safe_load(t)",
        "class L(yaml.SafeLoader): pass\nyaml.compose(t, Loader=L)",
        "model.eval()",
        "ast.literal_eval(t)",
        "json.load(f)",
        "subprocess.run(['ls'])",
        "re.compile(t)",
    ],
)
def test_the_search_lets_through(source: str) -> None:
    assert list(dangers(source)) == []


@pytest.mark.parametrize("which", ["teacher", "student.init"])
@pytest.mark.parametrize("revision", [None, "", "main", "v1.0", "abc123", "ab" * 19, "AB" * 20])
def test_code_of_a_model_runs_only_from_a_pinned_commit(
    make_job: Callable[..., Any], which: str, revision: str | None
) -> None:
    assert make_job().teacher.trust_remote_code is False
    with pytest.raises(ValidationError, match="pin its `revision` to a commit"):
        make_job({f"{which}.trust_remote_code": True, f"{which}.revision": revision})
    make_job({f"{which}.trust_remote_code": True, f"{which}.revision": "0a" * 20})


class Bomb:
    """What a pickle can do to whoever reads it."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return Path.touch, (self.mark,)


def test_weights_that_are_pickles_run_nothing(tmp_path: Path, student_dir: Path) -> None:
    import shutil

    import torch

    from raykd.models.load import ModelSource, load_model

    mark, model = tmp_path / "it-ran", tmp_path / "model"
    shutil.copytree(student_dir, model)
    (model / "model.safetensors").unlink()
    torch.save({"lm_head.weight": Bomb(mark)}, model / "pytorch_model.bin")
    with pytest.raises(Exception, match=r"(?i)weights.only"):
        load_model(ModelSource(str(model)), "fp32", "teacher")
    assert not mark.exists()
    torch.load(model / "pytorch_model.bin", weights_only=False)
    assert mark.exists()


OUTSIDE = ["..", "../up", "a/../../up", "/etc", "a/b", "~", "~/x", ".hidden", "a\x00b", "a\nb", ""]


@pytest.mark.parametrize("name", OUTSIDE)
def test_a_runs_name_stays_in_its_storage(make_job: Callable[..., Any], name: str) -> None:
    with pytest.raises(ValidationError, match="a run's name is a directory's name"):
        make_job({"name": name})


@pytest.mark.parametrize("name", ["a..b", "x.y-z_1"])
def test_names_that_are_let_through_stay_there_too(
    make_job: Callable[..., Any], tmp_path: Path, name: str
) -> None:
    job = make_job({"name": name, "storage_path": str(tmp_path)})
    assert RunDirectory.of(job).root.parent == tmp_path.resolve()


@pytest.mark.parametrize("name", [name for name in OUTSIDE if name != ""])
def test_names_of_sets_and_submissions_are_names(make_job: Callable[..., Any], name: str) -> None:
    with pytest.raises(ValidationError, match="set name"):
        make_job({"evaluation.sets": {name: {"source": "x.txt"}}})
    with pytest.raises(SubmissionError, match="--submission-id"):
        request.submission_id("tiny", name)


@pytest.mark.parametrize("inside", ["../torch", "a/../../x", "/etc/passwd"])
def test_a_package_reference_stays_in_the_package(inside: str) -> None:
    with pytest.raises(JobError, match="must stay inside"):
        resolve_package_path(f"package:pydoc_data/{inside}")


def test_a_package_is_not_imported_to_be_found(tmp_path: Path, monkeypatch: Any) -> None:
    (tmp_path / "evil_package").mkdir()
    (tmp_path / "evil_package" / "__init__.py").write_text("raise SystemExit('it ran')")
    (tmp_path / "evil_package" / "topics.txt").write_text("text")
    monkeypatch.syspath_prepend(str(tmp_path))
    found = resolve_package_path("package:evil_package/topics.txt")
    assert found == tmp_path / "evil_package" / "topics.txt"


def test_no_link_takes_a_file_from_outside_along(tmp_path: Path) -> None:
    (tmp_path / "project").mkdir()
    (tmp_path / "private").write_text("mine")
    (tmp_path / "project" / "innocent.txt").symlink_to(tmp_path / "private")
    (tmp_path / "project" / "up").symlink_to(tmp_path)
    assert choose(tmp_path / "project", {}).files == []


PINNED = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*==[0-9][A-Za-z0-9.]*(\+[a-z0-9.]+)?")


def pins() -> list[str]:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    return [line.strip() for line in lines if line.strip() and not line.startswith("#")]


def test_every_version_is_pinned_as_pip_audit_reads_it() -> None:
    found = pins()
    assert len(found) > 100
    assert [line for line in found if not PINNED.fullmatch(line)] == []
    names = [re.sub(r"[-_.]+", "-", line.split("==")[0]).lower() for line in found]
    assert len(names) == len(set(names))


def test_every_dependency_has_a_pin() -> None:
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    names = {re.sub(r"[-_.]+", "-", line.split("==")[0]).lower() for line in pins()}
    wanted = {re.split(r"[\[<>=!~; ]", text)[0].lower() for text in project["dependencies"]}
    assert {re.sub(r"[-_.]+", "-", name) for name in wanted} <= names


def test_no_file_of_the_repository_is_a_key() -> None:
    from raykd.submission.secret_text import form_of

    kept = ("raykd", "jobs", "cluster", "docs", "tests", "benchmarks")
    texts = [
        Path(directory) / name
        for top in kept
        for directory, _, names in os.walk(ROOT / top)
        for name in names
        if name.endswith((".py", ".md", ".yaml", ".yml", ".toml", ".sh", ".sbatch", ".json"))
    ]
    assert len(texts) > 100
    found = {str(p.relative_to(ROOT)): form_of(p.read_text(encoding="utf-8")) for p in texts}
    # Tests of what refuses such URLs hold made-up ones.
    made_up = {"a URL with a password": "tests/"}
    assert {
        name: what
        for name, what in found.items()
        if what and not name.startswith(made_up.get(what, "nowhere"))
    } == {}
