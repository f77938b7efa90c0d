# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""The sweeps in Triton, for GPUs; imported without Triton as well."""
