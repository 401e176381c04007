"""Samples that measures of distributions can be taken of."""

from __future__ import annotations

from torch import Tensor

from mmdiff.errors import InputError


def sample_rows(values: Tensor, name: str, least: int, why: str) -> Tensor:
    """Samples (N, D) as float64 on the host, checked for number and finiteness."""
    if values.ndim != 2 or 0 in values.shape:
        raise InputError(f"{name} of shape {tuple(values.shape)} must be (samples, values)")
    if len(values) < least:
        raise InputError(f"{name} has {len(values)} samples and must have {least} at least: {why}")
    rows = values.detach().to("cpu").double()  # in this order: some accelerators have no float64
    if not rows.isfinite().all():
        raise InputError(f"{name} must be finite: it has nan or inf; find out where they come from")
    return rows
