# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
import sn_mm.ops
from sn_mm.ops import info


def test_reports_do_not_take_it_for_compiled_operators():
    assert info.get_compiling_cuda_version() == 'not available'
    assert 'sn_mm' in info.get_compiler_version()
    assert sn_mm.ops.get_compiler_version is info.get_compiler_version
