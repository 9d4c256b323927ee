"""Filters and draws against transformers' own, and the random streams against what a stream has to be."""

from __future__ import annotations

import pytest
import torch
from transformers import (
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from selftrain.engines.base import SamplingParams
from selftrain.engines.decoding import token_sampling
from selftrain.engines.decoding.token_sampling import draw, filtered, penalise, uniforms


def logits(rows: int, vocab: int, scale: float = 3.0) -> torch.Tensor:
    return torch.randn(rows, vocab, generator=torch.Generator().manual_seed(0)) * scale


@pytest.mark.slow
@pytest.mark.parametrize("vocab", [40, 512, 6000])  # above 4 x NUCLEUS_GUESS the nucleus is looked for in two steps
@pytest.mark.parametrize(
    ("temperature", "top_k", "top_p"),
    [
        (1, 0, 1),
        (0.5, 0, 1),
        (0.9, 50, 0.95),
        (1.3, 5, 1),
        (1, 0, 0.9),
        (1, 1, 1),
        (1, 0, 1e-9),
        (2, 20, 0.3),
        (9, 0, 0.99),
    ],
)
def test_filters_equal_transformers(vocab, temperature, top_k, top_p):
    raw = logits(64, vocab)
    expected = TemperatureLogitsWarper(float(temperature))(None, raw)
    if top_k:
        expected = TopKLogitsWarper(top_k)(None, expected)
    if top_p < 1:
        expected = TopPLogitsWarper(top_p)(None, expected)
    scores, ids = filtered(raw, SamplingParams(temperature, 1, top_p=top_p, top_k=top_k))
    found = scores if ids is None else torch.full_like(raw, -torch.inf).scatter(-1, ids, scores)
    torch.testing.assert_close(found, expected)


def test_penalty_equals_transformers():
    raw = logits(8, 100)
    said = torch.randint(0, 100, (8, 30), generator=torch.Generator().manual_seed(1))
    seen = torch.zeros(8, 100, dtype=torch.bool).scatter_(1, said, True)
    for penalty in (1.3, 0.7):
        expected = RepetitionPenaltyLogitsProcessor(penalty)(said, raw.clone())
        torch.testing.assert_close(penalise(raw, seen, penalty), expected)


def chi_square(counts: torch.Tensor, p: torch.Tensor) -> tuple[float, int]:
    """The statistic and its degrees of freedom, rare tokens (fewer than 5 expected) taken together."""
    n = counts.sum()
    common = n * p >= 5
    observed = torch.cat([counts[common], counts[~common].sum()[None]]).double()
    expected = torch.cat([p[common], p[~common].sum()[None]]).double() * n
    observed, expected = observed[expected > 0], expected[expected > 0]
    return float(((observed - expected) ** 2 / expected).sum()), len(expected) - 1


@pytest.mark.slow
@pytest.mark.parametrize(
    "params",
    [
        SamplingParams(1, 1),
        SamplingParams(0.7, 1),
        SamplingParams(0.9, 1, top_p=0.95, top_k=50),
        SamplingParams(1, 1, top_p=0.8),
    ],
)
def test_draws_follow_the_distribution(params):
    n, vocab = 40_000, 200
    row = logits(1, vocab, 1.5)
    drawn = draw(row.expand(n, -1), params, uniforms(range(n), 1)[:, 0])
    scores, ids = filtered(row, params)
    full = scores if ids is None else torch.full_like(row, -torch.inf).scatter(-1, ids, scores)
    p = full[0].double().softmax(-1)
    counts = torch.bincount(drawn, minlength=vocab)
    assert counts[p == 0].sum() == 0
    statistic, freedom = chi_square(counts, p)
    assert abs(statistic - freedom) < 4 * (2 * freedom) ** 0.5  # mean and variance of chi-square: freedom, 2 x freedom


def test_streams_are_uniform_and_unrelated():
    many = uniforms(range(2000), 64)
    assert many.min() > 0
    assert many.max() < 1
    counts = (many * 50).long().flatten().bincount(minlength=50)
    statistic, freedom = chi_square(counts, torch.full((50,), 1 / 50, dtype=torch.float64))
    assert abs(statistic - freedom) < 4 * (2 * freedom) ** 0.5
    centred = many - 0.5
    for a, b in (
        (centred[:-1], centred[1:]),  # seed and next seed
        (centred[:, :-1], centred[:, 1:]),  # token and next token
        (centred[:-1, 1:], centred[1:, :-1]),  # a shifted copy of the neighbour, as a bare Weyl sequence would be
    ):
        # correlation of n independent pairs: standard deviation 1 / sqrt(n)
        assert abs(float((a * b).mean() * 12)) < 4 / a.numel() ** 0.5


def test_a_stream_is_its_seeds_own():
    assert torch.equal(uniforms([7, 8], 5)[1], uniforms([8], 9)[0, :5])
    # A fixed value: another one means that banked samples can no longer be drawn again.
    assert uniforms([0, 2**32 - 1], 2).tolist() == [
        pytest.approx([0.11260056966858123, 0.4534482944248044], abs=1e-15),
        pytest.approx([0.048436606194877996, 0.2090729345321538], abs=1e-15),
    ]


def test_the_extremes_draw_allowed_tokens():
    row = torch.tensor([[-torch.inf, 0.0, 0.0, -torch.inf]])
    for u, token in ((2.0**-49, 1), (0.5, 2), (1 - 2.0**-49, 2)):
        assert draw(row, SamplingParams(1, 1), torch.tensor([u], dtype=torch.float64)).item() == token


def test_temperature_zero_is_argmax():
    raw = logits(16, 300)
    assert torch.equal(draw(raw, SamplingParams(0, 1, top_p=0.5, top_k=3), torch.rand(16)), raw.argmax(-1))


def test_wide_nucleus_falls_back_to_the_full_sort(monkeypatch):
    monkeypatch.setattr(token_sampling, "NUCLEUS_GUESS", 4)
    flat = logits(8, 100, 0.1)
    scores, _ = filtered(flat, SamplingParams(1, 1, top_p=0.9))
    torch.testing.assert_close(scores, TopPLogitsWarper(0.9)(None, flat))
