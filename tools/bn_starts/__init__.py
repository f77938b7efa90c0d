# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""Starts from BN weights, compared in training.

Behind tools/from_bn.py; ``import sn_mm`` does not import it.
"""
