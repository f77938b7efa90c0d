# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""The error of an operator that is not there names who called it."""

import pytest
from torch import nn

from sn_mm.ops.missing import MissingOperatorError, missing_operator


class Layer(nn.Module):
    def forward(self, x):
        return missing_operator('carafe_forward')(x)


def message_of(function, *args):
    with pytest.raises(MissingOperatorError) as error:
        function(*args)
    return str(error.value)


def test_the_layer_and_its_model():
    text = message_of(nn.Sequential(nn.Identity(), Layer()), 1)
    assert "operator 'carafe_forward', which Layer in Sequential call" in text
    assert 'pip uninstall mmcv-lite' in text
    alone = message_of(Layer(), 1)
    assert 'which Layer calls' in alone


def test_a_function_outside_of_mmcv():
    def own_code():
        missing_operator('carafe_forward')()

    assert 'which own_code in ' in message_of(own_code)


def test_its_name_is_the_operators():
    made = missing_operator('carafe_forward')
    assert made.__name__ == 'carafe_forward'
    assert issubclass(MissingOperatorError, NotImplementedError)
