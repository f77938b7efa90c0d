# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""What a norm costs: layers, whole training steps, memory.

Behind tools/benchmark.py; ``import sn_mm`` does not import it.
"""
