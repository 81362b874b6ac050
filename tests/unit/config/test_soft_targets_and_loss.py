"""What a job may say of its codec and its loss, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import pytest

from raykd.config import loss, soft_targets
from raykd.config.job import Job
from raykd.config.load import load_job
from raykd.errors import JobError
from raykd.losses import spec
from raykd.soft_targets import spec as codec_spec

MakeJob = Callable[..., Job]


def complaint(write_job: Callable[..., Path], tree: dict[str, Any], *overrides: str) -> str:
    tree["soft_targets"] = {}
    with pytest.raises(JobError) as caught:
        load_job(write_job(tree), list(overrides))
    return str(caught.value)


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["soft_targets.codec=gzip"], "'top_k', 'sampled', 'hidden', 'full' or 'auto'"),
        (["soft_targets.draws=20"], "draws is of codec `sampled`; with `codec: top_k`"),
        (["soft_targets={codec: hidden, top_k: 9}"], "top_k is of codec `top_k`; with `codec: h"),
        (["soft_targets={codec: sampled, values: bf16}"], "values is of codec `top_k` and `full`"),
        (["soft_targets={codec: full, values: int8}"], "`full` keeps fp32 or bf16; found int8"),
        (["soft_targets={codec: auto, tail: false}"], "tail is of codec `top_k`"),
        (["soft_targets.values=int4"], "'fp32', 'bf16', 'int8' or 'int6'"),
        (["soft_targets.temperatures=[2, 0]"], "temperatures must all be above 0; found [2.0, 0."),
        (["soft_targets={codec: sampled, draws: 256}"], "less than or equal to 255"),
        (["soft_targets={codec: sampled, proposal_temperature: 0}"], "greater than 0"),
        (["soft_targets.top_k=0"], "greater than or equal to 1"),
        (["loss.temperature=0"], "greater than 0"),
        (["loss.temperature=-1"], "greater than 0"),
        (["loss.alpha=1.5"], "less than or equal to 1"),
        (["loss.alpha=-0.1"], "greater than or equal to 0"),
        (["loss.divergence=forward_lk"], "there is no 'forward_lk'; choose forward_kl, reverse_kl"),
        (["loss.divergence={jsd: 1, kl: 1}"], "there is no 'kl'"),
        (["loss.divergence={}"], "divergence names none"),
        (["loss.divergence={jsd: 0}"], "the weight of jsd must be above 0; found 0"),
        (["loss.divergence={jsd: -2}"], "the weight of jsd must be above 0; found -2"),
        (["loss.skew=1"], "less than 1"),
        (["loss.token_weights.position_ramp_tokens=-1"], "greater than or equal to 0"),
    ],
)
def test_refused(
    overrides: list[str], said: str, write_job: Callable[..., Path], job_tree: dict[str, Any]
) -> None:
    assert said in complaint(write_job, job_tree, *overrides)


@pytest.mark.parametrize("name", ["reverse_kl", "jsd", "total_variation", "adaptive_kl"])
def test_a_codec_that_cannot_serve_the_loss(
    name: str, write_job: Callable[..., Path], job_tree: dict[str, Any]
) -> None:
    told = complaint(
        write_job,
        job_tree,
        "soft_targets.codec=sampled",
        f"loss.divergence={{forward_kl: 1, {name}: 1}}",
    )
    assert (
        f"{name} cannot be had from `soft_targets.codec: sampled`, which serves forward_kl" in told
    )
    assert "top_k, hidden and full serve it" in told


@pytest.mark.parametrize("key", ["teacher_confidence", "drop_documents_below"])
def test_confidence_needs_a_codec_that_carries_it(
    key: str, write_job: Callable[..., Path], job_tree: dict[str, Any]
) -> None:
    asked = f"loss.token_weights.{key}=0.5"
    told = complaint(write_job, job_tree, "soft_targets.codec=hidden", asked)
    assert "`soft_targets.codec: hidden` does not carry" in told
    told = complaint(write_job, job_tree, "loss.alpha=1", asked)
    assert "with `loss.alpha: 1` it says nothing of the text" in told


@pytest.mark.parametrize("name", ["reverse_kl", "adaptive_kl"])
def test_no_tail_where_mass_outside_would_cost_without_bound(
    name: str, write_job: Callable[..., Path], job_tree: dict[str, Any]
) -> None:
    told = complaint(
        write_job, job_tree, "soft_targets.tail=false", f"loss.divergence={{jsd: 1, {name}: 1}}"
    )
    assert f"makes {name} unbounded; keep the tail" in told


def test_plain_fine_tuning_has_no_codec_to_fit(make_job: MakeJob) -> None:
    job = make_job(
        {"soft_targets": {"codec": "sampled"}, "loss.alpha": 1.0, "loss.divergence": "reverse_kl"}
    )
    assert not job.needs_teacher_for_training


def test_a_job_names_what_losses_and_codecs_have() -> None:
    """Configuration imports neither, so the names stand in both."""
    assert loss.DIVERGENCES == spec.DIVERGENCES
    assert set(get_args(soft_targets.CodecName)) == {*codec_spec.CODECS, "auto"}
    assert soft_targets.WIDTHS_OF_FULL == codec_spec.FULL_VALUES


@pytest.mark.parametrize(
    ("soft_targets", "width"),
    [({}, "int8"), ({"codec": "full"}, "bf16"), ({"values": "fp32"}, "fp32")],
)
def test_widths(soft_targets: dict[str, Any], width: str, make_job: MakeJob) -> None:
    assert make_job({"soft_targets": soft_targets}).soft_targets.width == width


@pytest.mark.parametrize(
    ("loss", "more", "expected"),
    [
        (1.0, [], (1.0,)),
        (2.0, [], (1.0, 2.0)),
        (1.0, [4.0, 1.0, 2.0], (1.0, 2.0, 4.0)),
        (2.0, [4.0, 2.0, 1.5], (1.0, 1.5, 4.0, 2.0)),
    ],
)
def test_temperatures_are_kept_once_the_losss_last(
    loss: float, more: list[float], expected: tuple[float, ...], make_job: MakeJob
) -> None:
    job = make_job({"loss.temperature": loss, "soft_targets.temperatures": more})
    assert job.temperatures == expected


def test_several_divergences(make_job: MakeJob) -> None:
    job = make_job({"loss.divergence": {"forward_kl": 0.7, "reverse_kl": 0.3}})
    assert job.loss.divergences == {"forward_kl": 0.7, "reverse_kl": 0.3}
    assert make_job({"loss.divergence": "jsd"}).loss.divergences == {"jsd": 1.0}
