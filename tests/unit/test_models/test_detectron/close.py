# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""How near our geometry has to be to the public one."""


def assert_close(got, want, tolerance=1e-5):
    assert got.shape == want.shape
    error = (got.double() - want.double()).abs()
    assert (error <= tolerance * want.double().abs().clamp(min=1)).all()
