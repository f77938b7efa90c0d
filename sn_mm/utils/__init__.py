# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""What several rooms need and none of them is about.

Nothing here knows of norms; nothing here imports another part of sn_mm.
"""

from .counts import check_count
from .names import join_names
from .progress import progress_bar
from .tables import markdown_table, text_table
from .whole_files import write_json, write_text, written_whole
from .wrappers import unwrapped

__all__ = [
    'check_count',
    'join_names',
    'markdown_table',
    'progress_bar',
    'text_table',
    'unwrapped',
    'write_json',
    'write_text',
    'written_whole',
]
