"""The losses written the plain way: probabilities, one token at a time, torch's own gradients.

Only for float64 and small sizes. A bucket where a side is 0 is left out by hand, so that -inf
logits give no NaN; where the true value is infinite, so is the result.
"""

from __future__ import annotations

import math

import torch

from raykd.losses.divergences import LOG_FLOOR
from raykd.losses.spec import LossSpec
from raykd.losses.targets import (
    BucketTargets,
    DenseTargets,
    HiddenTargets,
    LogitShape,
    SampledTargets,
    Targets,
    TeacherHead,
)

SHAPES = (LogitShape(), LogitShape(scale=0.7), LogitShape(scale=1.3, softcap=3.0))


def normal(*size: int, seed: int, scale: float = 1.0) -> torch.Tensor:
    """Float64, from its own seed."""
    generator = torch.Generator().manual_seed(seed)
    return scale * torch.randn(*size, generator=generator, dtype=torch.float64)


def top_k_targets(teacher_TV: torch.Tensor, k: int, temperature: float) -> BucketTargets:
    """What a teacher would keep, by the definition, in the logits' own dtype."""
    logprobs_TV = teacher_TV.log_softmax(-1)
    ids_TK = logprobs_TV.topk(k, dim=1).indices
    rest_TV = (logprobs_TV / temperature).scatter(1, ids_TK, -math.inf)
    return BucketTargets(ids_TK.int(), logprobs_TV.gather(1, ids_TK), rest_TV.logsumexp(1))


def sampled_targets(
    teacher_TV: torch.Tensor, draws: int, temperature: float, seed: int = 0
) -> SampledTargets:
    """Drawn from a flattened teacher, with importance weights, then two places of padding."""
    p_TV = (teacher_TV / temperature).softmax(-1)
    proposal_TV = (teacher_TV / (1.5 * temperature)).softmax(-1)
    generator = torch.Generator().manual_seed(seed)
    ids_TU = torch.multinomial(proposal_TV, draws, replacement=True, generator=generator)
    weights_TU = (p_TV / proposal_TV).gather(1, ids_TU) / draws
    padding = torch.zeros(len(ids_TU), 2)
    return SampledTargets(
        torch.cat([ids_TU, padding.long()], 1).int(),
        torch.cat([weights_TU, padding.to(weights_TU.dtype)], 1),
        -(p_TV * p_TV.clamp_min(1e-300).log()).sum(1),
    )


def every_kind(
    num_tokens: int, vocab_size: int, temperature: float, seed: int = 1
) -> dict[str, Targets]:
    """Targets of each kind for one teacher."""
    hidden_TD = normal(num_tokens, 5, seed=seed)
    head = TeacherHead(
        normal(vocab_size + 2, 5, seed=seed + 1),
        normal(vocab_size + 2, seed=seed + 2),
        LogitShape(scale=0.9, softcap=4.0),
    )
    raw_TV = (hidden_TD @ head.weight_VD.T + head.bias_V)[:, :vocab_size]
    teacher_TV = 4.0 * torch.tanh(0.9 * raw_TV / 4.0)
    return {
        "top_k": top_k_targets(teacher_TV, max(1, vocab_size // 3), temperature),
        "whole": top_k_targets(teacher_TV, vocab_size, temperature),
        "sampled": sampled_targets(teacher_TV, 6, temperature),
        "dense": DenseTargets(teacher_TV),
        "hidden": HiddenTargets(hidden_TD, head),
    }


def reference_logits(
    hidden_TD: torch.Tensor,
    weight_VD: torch.Tensor,
    bias_V: torch.Tensor | None,
    shape: LogitShape,
    vocab_size: int,
) -> torch.Tensor:
    logits_TV = hidden_TD @ weight_VD.T
    if bias_V is not None:
        logits_TV = logits_TV + bias_V
    logits_TV = shape.scale * logits_TV[:, :vocab_size]
    if shape.softcap is None:
        return logits_TV
    return shape.softcap * torch.tanh(logits_TV / shape.softcap)


def reference_loss(
    logits_TV: torch.Tensor,
    labels_T: torch.Tensor,
    targets: Targets | None,
    spec: LossSpec,
    token_weights_T: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(total, divergence, cross_entropy), summed over tokens as `LossParts` says."""
    weights = [1.0] * len(logits_TV) if token_weights_T is None else token_weights_T.tolist()
    zero = logits_TV.sum() * 0 if logits_TV.isfinite().all() else logits_TV.new_zeros(())
    divergence, cross_entropy = zero, zero
    for t, weight in enumerate(weights):
        if weight == 0.0:
            continue
        cross_entropy = cross_entropy - weight * _log(_softmax(logits_TV[t])[labels_T[t]])
        if targets is not None and spec.divergences:
            value = _token_divergence(logits_TV[t] / spec.temperature, targets, t, spec)
            divergence = divergence + weight * spec.temperature**2 * value
    if spec.alpha == 1.0:
        return cross_entropy, divergence, cross_entropy
    if spec.alpha == 0.0:
        return divergence, divergence, cross_entropy
    return (1 - spec.alpha) * divergence + spec.alpha * cross_entropy, divergence, cross_entropy


def _token_divergence(
    logits_V: torch.Tensor, targets: Targets, t: int, spec: LossSpec
) -> torch.Tensor:
    q_V, tau = _softmax(logits_V), spec.temperature
    if isinstance(targets, SampledTargets):
        total = q_V.new_zeros(())
        for v, weight in zip(
            targets.ids_TU[t].tolist(), targets.weights_TU[t].tolist(), strict=True
        ):
            if weight > 0:
                total = total - weight * _log(q_V[v])
        return spec.divergences[0][1] * (total - targets.entropy_T[t])
    has_tail = False
    if isinstance(targets, BucketTargets):
        ids = targets.ids_TK[t].long()
        p_B, q_B = (targets.logprobs_TK[t].double() / tau).exp(), q_V[ids]
        left = [v for v in range(len(q_V)) if v not in ids.tolist()]
        if left:
            has_tail = True
            p_B = torch.cat([p_B, targets.log_tail_T[t : t + 1].double().exp()])
            q_B = torch.cat([q_B, q_V[left].sum()[None]])
        p_B = p_B / p_B.sum()
    elif isinstance(targets, DenseTargets):
        p_B, q_B = _softmax(targets.logprobs_TV[t].double() / tau), q_V
    else:
        head = targets.head
        logits = reference_logits(
            targets.hidden_TD[t : t + 1].double(),
            head.weight_VD.double(),
            None if head.bias_V is None else head.bias_V.double(),
            head.shape,
            len(q_V),
        )
        p_B, q_B = _softmax(logits[0] / tau), q_V
    return sum(
        weight * plain_divergence(name, p_B, q_B, spec, has_tail)
        for name, weight in spec.divergences
    )


def plain_divergence(
    name: str, p_B: torch.Tensor, q_B: torch.Tensor, spec: LossSpec, has_tail: bool
) -> torch.Tensor:
    """One token's divergence of probabilities, as its formula reads."""
    if name == "forward_kl":
        return _kl(p_B, q_B)
    if name == "reverse_kl":
        return _kl(q_B, p_B.clamp_min(math.exp(LOG_FLOOR)))
    if name == "jsd":
        m_B = spec.beta * p_B + (1 - spec.beta) * q_B
        return spec.beta * _kl(p_B, m_B) + (1 - spec.beta) * _kl(q_B, m_B)
    if name == "skewed_kl":
        return _kl(p_B, spec.skew * p_B + (1 - spec.skew) * q_B)
    if name == "skewed_reverse_kl":
        floor = math.exp(LOG_FLOOR) if spec.skew == 0 else 0.0
        return _kl(q_B, (1 - spec.skew) * p_B.clamp_min(floor) + spec.skew * q_B)
    if name == "total_variation":
        return (p_B - q_B).abs().sum() / 2
    assert name == "adaptive_kl"
    order, mass, head = p_B.argsort(descending=True, stable=True).tolist(), 0.0, []
    for b in order:
        if mass >= spec.head_mass:
            break
        if not (has_tail and b == len(p_B) - 1):
            head.append(b)
            mass += float(p_B[b])
    gap_B = (p_B - q_B).abs().detach()
    of_head = float(gap_B[head].sum())
    of_all = float(gap_B.sum())
    if of_all == 0.0:
        return q_B.sum() * 0
    of_tail = math.fsum(gap_B[[b for b in range(len(p_B)) if b not in head]].tolist())
    value = q_B.new_zeros(())
    if of_head > 0:
        value = value + of_head / of_all * _kl(p_B, q_B)
    if of_tail > 0:
        value = value + of_tail / of_all * _kl(q_B, p_B.clamp_min(math.exp(LOG_FLOOR)))
    return value


def _kl(a_B: torch.Tensor, b_B: torch.Tensor) -> torch.Tensor:
    """Sum of a log(a / b) where a is above 0."""
    kept = a_B > 0
    a_B, b_B = a_B[kept], b_B[kept]
    if bool((b_B == 0).any()):
        return a_B.sum() * math.inf
    return (a_B * (a_B.log() - b_B.log())).sum()


def _softmax(logits_V: torch.Tensor) -> torch.Tensor:
    """By its definition; -inf gives a 0 without a NaN in the gradient."""
    finite = logits_V > -math.inf
    top = logits_V[finite].max().detach()
    weights_V = torch.where(finite, torch.where(finite, logits_V - top, 0.0).exp(), 0.0)
    return weights_V / weights_V.sum()


def _log(probability: torch.Tensor) -> torch.Tensor:
    return probability.log() if float(probability.detach()) > 0 else probability - math.inf
