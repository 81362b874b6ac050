"""The student: DeepSpeed ZeRO around the distillation module, one object a rank."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch
import torch.distributed as dist

from raykd.errors import DivergenceError
from raykd.losses.heldout import HeldoutSums
from raykd.models.batch import collate
from raykd.models.head import check_head
from raykd.soft_targets.codec import TopKTargets, decode
from raykd.student import randomness, zero_checkpoint
from raykd.student.build import adamw, build_causal_lm, forget_steps
from raykd.student.micro_batch import MicroBatch
from raykd.student.module import DistillationModule, StepParts
from raykd.student.protocol import StepResult, StudentSpec, Wish
from raykd.student.representations import read_states
from raykd.student.targets import TargetReader, buckets
from raykd.student.weights import token_weights
from raykd.student.zero import accumulation_steps, deepspeed_config, learning_rate
from raykd.telemetry.metrics import InnerMetrics


class ZeroStudent:
    """A DeepSpeed engine and what a step of distillation is."""

    def __init__(self, spec: StudentSpec) -> None:
        import deepspeed

        self._job = job = spec.job
        self._num_steps = spec.num_steps
        self._heldout_spec = spec.heldout
        self._device = (
            torch.device("cuda", torch.cuda.current_device())
            if (job.student.device == "gpu")
            else torch.device("cpu")
        )
        torch.manual_seed(job.seed)
        config = deepspeed_config(job)
        _leave_collectives_to_torch()
        # It adopts the group there is; loading under ZeRO 3 would think itself alone without.
        deepspeed.init_distributed(auto_mpi_discovery=False)
        # Alive before and while the weights load: under ZeRO 3 they are sharded as they come in.
        self._zero3 = _zero3_loading(config)
        self._states = spec.states
        module = self._module(spec)
        optimizer = adamw(module, job)
        self._engine, *_ = deepspeed.initialize(model=module, optimizer=optimizer, config=config)
        forget_steps(optimizer)
        self._engine.eval()
        self._check_module()
        randomness.seed_rank(job.seed, 0, dist.get_rank())
        self._read = self._reader(spec)

    def _module(self, spec: StudentSpec) -> torch.nn.Module:
        """What DeepSpeed wraps."""
        causal_lm = build_causal_lm(spec.job, spec.source)
        return DistillationModule(causal_lm, spec.job, spec.targets.vocab_size, spec.alignment)

    def _check_module(self) -> None:
        """Refuse a model that does something unknown with its outputs."""
        check_head(self._engine.module.causal_lm, "student.init")

    def _reader(self, spec: StudentSpec) -> TargetReader | None:
        """What decodes the rows' soft targets; None where the student learns from none."""
        if not spec.job.learns_from_logits:
            return None
        tau = spec.job.loss.temperature
        return TargetReader(spec.targets, tau, spec.head_file, self._device)

    def train_step(self, rows: pa.Table, step: int, wait_s: float, wish: Wish) -> StepResult:
        """Forward, backward and one optimizer step over this rank's rows.

        The mean is over the kept tokens of the whole step, all ranks and micro-batches; each counts
        as much as `loss.token_weights` says.
        """
        micro = [self._micro_batch(part) for part in _slices(rows, self._job.train.micro_batch)]
        positions, weight, tokens, seen, teacher_s = self._total(
            sum(one.num_positions for one in micro),
            sum(one.weight for one in micro),
            sum(len(one.batch.keep_M) for one in micro),
            sum(one.batch.input_ids_BT.numel() for one in micro),
            sum(rows.column("teacher_s").to_pylist()) if "teacher_s" in rows.column_names else 0,
        )
        lr = self._set_learning_rate(step)
        mean = 1.0 / weight if weight > 0 else 1.0
        # DeepSpeed divides by the accumulation steps and averages over ranks: undo both.
        scale = dist.get_world_size() * accumulation_steps(self._job)
        mean_inner = 1.0 / positions if positions > 0 else 1.0
        sums = torch.zeros(6, dtype=torch.float64)
        self._engine.train()
        for i, one in enumerate(micro):
            parts = self._engine(
                batch=one.batch,
                targets=one.targets,
                token_weights_M=one.token_weights_M,
                states=None if one.states is None else one.states.to(self._device),
            )
            loss = parts.total * mean
            if parts.representations is not None:
                loss = loss + parts.representations * mean_inner
            self._engine.backward(loss * scale)
            sums += _numbers(parts)
            if i + 1 == len(micro):
                total, divergence, cross_entropy, *inner = self._total(*sums.tolist())
                _require_finite("loss", total * mean + inner[0] * mean_inner, step)
                norm = self._unsharded_norm()
            self._engine.step()
        grad_norm = self._grad_norm(step, norm)
        longest_wait_s, wished = self._most(wait_s, float(wish))
        return StepResult(
            tokens=int(tokens),
            tokens_seen=int(seen),
            loss=total * mean + inner[0] * mean_inner,
            divergence=divergence * mean if self._job.learns_from_logits else None,
            cross_entropy=cross_entropy * mean,
            lr=lr,
            grad_norm=grad_norm,
            wait_s=longest_wait_s,
            teacher_s=teacher_s,
            wish=Wish(int(wished)),
            inner=self._inner(*(value * mean_inner for value in inner[1:])),
        )

    def _inner(self, hidden: float, attention: float) -> InnerMetrics | None:
        asked = self._job.representations
        if asked is None:
            return None
        return InnerMetrics(
            hidden=hidden if asked.hidden else None,
            attention=attention if asked.attention else None,
        )

    @torch.no_grad()
    def heldout(self, rows: pa.Table) -> HeldoutSums:
        """Measure rows rank, rank + W, ... here and the others elsewhere; sums over all ranks.

        Every rank makes the same number of passes, as ZeRO 3 needs: one that has run out of rows
        passes the first one through and counts it for nobody.
        """
        self._engine.eval()
        size, num_ranks = self._job.train.micro_batch, dist.get_world_size()
        mine = range(dist.get_rank(), rows.num_rows, num_ranks)
        sums = HeldoutSums()
        for at in range(0, math.ceil(rows.num_rows / num_ranks), size):
            part = rows.take(list(mine[at : at + size]) or [0])
            measured = self._measure(part)
            if at < len(mine):
                sums += measured
        return HeldoutSums(*self._total(sums.tokens, sums.kl, sums.agreed, sums.cross_entropy))

    def _measure(self, rows: pa.Table) -> HeldoutSums:
        batch = collate(rows).to(self._device)
        targets = decode(rows, self._heldout_spec, self._device)
        assert isinstance(targets, TopKTargets), "held-out rows are scored with codec top_k"
        measured: HeldoutSums = self._engine.module.heldout(batch, buckets(targets, 0))
        return measured

    def save(self, directory: Path) -> None:
        """Write the ZeRO checkpoint; every rank writes its own part and its random states."""
        zero_checkpoint.save(self._engine, self._job, directory)

    def load(self, directory: Path) -> None:
        """Go on from what `save` wrote, on this or another number of ranks.

        Raises:
            StorageError: It cannot be brought to this number of ranks, or what was loaded is not
                what was saved.
        """
        zero_checkpoint.load(self._engine, self._job, directory)

    def _micro_batch(self, rows: pa.Table) -> MicroBatch:
        batch = collate(rows).to(self._device)
        arrived = None if self._read is None else self._read(rows)
        label_logprobs_M = None if arrived is None else arrived.label_logprobs_M
        weights_M = token_weights(batch, label_logprobs_M, self._job.loss.token_weights)
        states = None
        if self._states is not None:
            states = read_states(rows, self._states)
        return MicroBatch(batch, arrived, weights_M, states)

    def _set_learning_rate(self, step: int) -> float:
        lr = learning_rate(step, self._num_steps, self._job.train.optimizer)
        for group in self._engine.optimizer.param_groups:
            group["lr"] = lr
        return lr

    def _unsharded_norm(self) -> float | None:
        """Under ZeRO 0 in fp32 DeepSpeed keeps no norm, and a step empties the gradients."""
        if self._job.student.zero_stage > 0 or self._job.student.dtype != "fp32":
            return None
        gradients = [p.grad for p in self._engine.module.parameters() if p.grad is not None]
        return float(torch.nn.utils.get_total_norm(gradients))

    def _grad_norm(self, step: int, unsharded: float | None) -> float:
        value = self._engine.get_global_grad_norm() if unsharded is None else unsharded
        assert value is not None, "DeepSpeed keeps the norm of what it shards"
        _require_finite("gradient norm", float(value), step)
        return float(value)

    def _total(self, *values: float) -> list[float]:
        return self._reduce(values, dist.ReduceOp.SUM)

    def _most(self, *values: float) -> list[float]:
        return self._reduce(values, dist.ReduceOp.MAX)

    def _reduce(self, values: tuple[float, ...], operation: Any) -> list[float]:
        tensor = torch.tensor(values, dtype=torch.float64, device=self._device)
        dist.all_reduce(tensor, operation)
        reduced: list[float] = tensor.tolist()
        return reduced


def _leave_collectives_to_torch() -> None:
    """Keep DeepSpeed from compiling its own all-reduce for CPUs.

    It would need a compiler on every node, and it compiles under a lock file in the home directory:
    a process killed meanwhile leaves the lock, and every later run waits for it for ever.
    """
    from deepspeed.ops import __compatible_ops__

    __compatible_ops__["deepspeed_shm_comm"] = False


def _zero3_loading(config: dict[str, Any]) -> Any:
    if config["zero_optimization"]["stage"] != 3:
        return None
    from transformers.integrations import HfDeepSpeedConfig

    return HfDeepSpeedConfig(config)


def _numbers(parts: StepParts) -> torch.Tensor:
    """The parts, float64 on the CPU, 0 for those that are not there."""
    nothing = parts.total.new_zeros((), dtype=torch.float64)
    numbers = [nothing if part is None else part.detach().double() for part in parts]
    return torch.stack(numbers).cpu()


def _slices(rows: pa.Table, size: int) -> list[pa.Table]:
    return [rows.slice(at, size) for at in range(0, rows.num_rows, size)]


def _require_finite(what: str, value: float, step: int) -> None:
    if not math.isfinite(value):
        raise DivergenceError(f"{what} is {value} at step {step + 1}")
