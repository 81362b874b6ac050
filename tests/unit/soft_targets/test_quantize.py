"""Narrow widths: what survives exactly, and how far the rest may move."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from raykd.soft_targets.quantize import (
    distances,
    pack_6_bits,
    quantize,
    quantize_symmetric,
    unpack_6_bits,
)

STEPS = {"int8": 253, "int6": 61}
CODES = {"int8": 256, "int6": 64, "bf16": 0x7F81}


def falling(num_tokens: int, k: int, seed: int = 0, spread: float = 4.0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    logits_TV = spread * torch.randn(num_tokens, 4 * k, generator=generator)
    return logits_TV.log_softmax(1).topk(k, dim=1).values


def restored(logprobs_TK: torch.Tensor, values: str) -> tuple[torch.Tensor, torch.Tensor]:
    quantized = quantize(logprobs_TK, values)
    codes_TK = quantized.codes_TK
    assert int(codes_TK.min()) >= 0
    assert int(codes_TK.max()) < CODES[values]
    found_TK = quantized.top_T1 - distances(codes_TK, quantized.scale_T1, values)
    return found_TK.double(), codes_TK


@pytest.mark.parametrize("values", ["int8", "int6"])
@pytest.mark.parametrize("k", [1, 2, 64])
def test_every_value_is_within_one_step_and_the_mass_is_kept(values: str, k: int) -> None:
    logprobs_TK = falling(300, k).double()
    found_TK, _ = restored(logprobs_TK.float(), values)
    # One step: the range over the steps, and what bfloat16 rounds up, 1 in 128.
    step_T1 = (logprobs_TK[:, :1] - logprobs_TK[:, -1:]) / STEPS[values] * (1 + 1 / 128)
    assert bool(((found_TK - logprobs_TK).abs() <= step_T1 + 1e-5).all())
    torch.testing.assert_close(found_TK.logsumexp(1), logprobs_TK.logsumexp(1), rtol=0, atol=1e-6)
    # Hoeffding: the added divergence is at most step^2 / 8 of the kept mass.
    kl_T = (logprobs_TK.exp() * (logprobs_TK - found_TK)).sum(1)
    bound_T = logprobs_TK.exp().sum(1) * step_T1[:, 0] ** 2 / 8
    assert bool((kl_T <= bound_T + 1e-6).all())
    assert bool((kl_T >= -1e-6).all())


def test_bfloat16_is_within_its_digits_and_keeps_the_mass() -> None:
    logprobs_TK = falling(300, 64).double()
    found_TK, _ = restored(logprobs_TK.float(), "bf16")
    # Half a unit in the last of 8 digits of the distance; the correction at most as much.
    allowed_TK = (logprobs_TK[:, :1] - logprobs_TK[:, -1:]) * 2.0**-8 + 1e-5
    assert bool(((found_TK - logprobs_TK).abs() <= allowed_TK).all())
    torch.testing.assert_close(found_TK.logsumexp(1), logprobs_TK.logsumexp(1), rtol=0, atol=1e-6)


@pytest.mark.parametrize("values", ["int8", "int6", "bf16"])
def test_what_is_ruled_out_stays_so_and_costs_no_precision(values: str) -> None:
    logprobs_TK = falling(5, 8)
    logprobs_TK[1, 3:] = -math.inf
    logprobs_TK[2, 1:] = -math.inf
    found_TK, _ = restored(logprobs_TK, values)
    assert torch.equal(found_TK == -math.inf, logprobs_TK == -math.inf)
    alone_TK, _ = restored(logprobs_TK[1:2, :3], values)
    torch.testing.assert_close(found_TK[1:2, :3], alone_TK)
    assert found_TK[2, 0] == pytest.approx(float(logprobs_TK[2, 0]), abs=1e-6)


@pytest.mark.parametrize("values", ["int8", "int6", "bf16"])
def test_the_likeliest_alone_has_code_0_even_in_a_tie(values: str) -> None:
    tied_TK = torch.tensor([[-1.0, -1.0, -1.0], [-0.5, -0.5 - 1e-6, -9.0], [-2.0, -2.0, -math.inf]])
    found_TK, codes_TK = restored(tied_TK, values)
    assert bool((codes_TK[:, 0] == 0).all())
    assert bool((codes_TK[:, 1:] > 0).all())
    # It costs nothing: values that were one are one.
    torch.testing.assert_close(found_TK[:, 1], found_TK[:, 0], rtol=0, atol=2e-6)


@pytest.mark.parametrize(("values", "spread"), [("int8", 15.0), ("int6", 3.5)])
def test_values_on_a_bf16_heads_grid_lose_nothing(values: str, spread: float) -> None:
    """Logits between 8 and 32 in bf16 are multiples of 1/16; so are their distances."""
    generator = torch.Generator().manual_seed(0)
    logits_TV = (10 + spread * torch.rand(50, 200, generator=generator)).bfloat16()
    logprobs_TK = logits_TV.double().log_softmax(1).sort(1, descending=True).values
    found_TK, _ = restored(logprobs_TK.float(), values)
    torch.testing.assert_close(found_TK, logprobs_TK, rtol=0, atol=5e-6)
    # So it could fail: a hair off the grid, they are rounded.
    shifted_TK = (logprobs_TK * 1.003).log_softmax(1)
    found_TK, _ = restored(shifted_TK.float(), values)
    assert float((found_TK - shifted_TK).abs().max()) > 1e-3


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.floats(-60, 0, width=32), min_size=1, max_size=12),
    st.integers(0, 4),
    st.sampled_from(["int8", "int6", "bf16"]),
)
def test_order_and_mass_survive_any_values(
    values_K: list[float], num_ruled_out: int, values: str
) -> None:
    kept = sorted(values_K, reverse=True) + [-math.inf] * num_ruled_out
    found_TK, codes_TK = restored(torch.tensor([kept]), values)
    assert bool((codes_TK[:, 1:] >= codes_TK[:, :-1]).all())
    before = torch.tensor(kept, dtype=torch.float64).logsumexp(0)
    assert float(found_TK.logsumexp(1)) == pytest.approx(float(before), abs=1e-5)


@pytest.mark.parametrize("k", [1, 3, 4, 5, 64])
def test_six_bits_there_and_back(k: int) -> None:
    codes_TK = (torch.arange(7 * k) % 64).int().view(7, k)
    packed = pack_6_bits(codes_TK)
    assert packed.dtype == torch.uint8
    assert packed.shape == (7, 3 * math.ceil(k / 4))
    assert torch.equal(unpack_6_bits(packed, k), codes_TK)
    assert unpack_6_bits(packed[:0], k).shape == (0, k)


def test_six_bits_lie_lowest_first() -> None:
    packed = pack_6_bits(torch.tensor([[1, 2, 3, 4]], dtype=torch.int32))
    assert int.from_bytes(bytes(packed[0].tolist()), "little") == 1 + (2 << 6) + (3 << 12) + (
        4 << 18
    )


def test_numbers_of_any_sign_within_half_a_scale() -> None:
    values_TD = falling(4, 32) + 5.0
    values_TD[3] = 0.0
    codes_TD, scale_T1 = quantize_symmetric(values_TD)
    assert codes_TD.dtype == torch.int8
    assert bool((codes_TD[:3].abs().amax(1) == 127).all())
    error_TD = (codes_TD.double() * scale_T1 - values_TD).abs()
    assert bool((error_TD <= values_TD.abs().amax(1, keepdim=True) / 127 / 2 + 1e-6).all())
