# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""The numbers of rules that matter, each in few calls; none sees x."""
