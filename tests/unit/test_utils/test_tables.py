# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""Tables for terminals and for Markdown files."""

from sn_mm.utils import markdown_table, text_table


def test_columns_are_as_wide_as_their_widest_cell():
    made = text_table(['name', 'n'], [['a', '100'], ['longer', '']])
    assert made.splitlines() == ['name    n', 'a       100', 'longer']


def test_a_rule_below_the_head():
    assert text_table(['ab', 'c'], [['1', '2']], rule=True).splitlines() == [
        'ab  c',
        '-----',
        '1   2',
    ]


def test_a_table_without_rows_is_its_head():
    assert text_table(['ab', 'c'], []) == 'ab  c'
    assert markdown_table(['a'], []) == '| a |\n| --- |'


def test_markdown_puts_numbers_to_the_right():
    made = markdown_table(['norm', 'ms'], [['BN', 3]], numbers=True)
    assert made.splitlines() == [
        '| norm | ms |',
        '| --- | ---: |',
        '| BN | 3 |',
    ]
