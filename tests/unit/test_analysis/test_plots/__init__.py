# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
