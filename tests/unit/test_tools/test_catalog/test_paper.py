# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
from collections import Counter

import pytest
import yaml

from catalog import CatalogError, read_paper
from tests.paths import CONFIGS

# rows of the paper's tables; VII has each twice, on ADE20K and Cityscapes
ROWS = {'IV': 7, 'V': 5, 'VI': 6, 'VII': 16, 'VIII': 8}


@pytest.fixture(scope='module')
def paper():
    return read_paper(CONFIGS)


@pytest.fixture
def content():
    return yaml.safe_load((CONFIGS / 'paper.yml').read_text())


def test_every_row_of_the_paper_has_a_config(paper):
    assert Counter(row.table for row in paper.rows) == ROWS
    for row in paper.rows:
        assert row.configs, (row.table, row.label)
        for config in row.configs:
            assert (CONFIGS / f'{config}.py').is_file(), config
    labels = [(r.table, r.label, r.results[0].dataset) for r in paper.rows]
    assert len(set(labels)) == len(labels)


def test_norms_that_a_table_compares(paper):
    found = {table: set() for table in ROWS}
    for row in paper.rows:
        found[row.table].add(row.label)
    frozen = {'BN† / –', 'BN† / GN', 'BN† / SN', 'GN / GN', 'SN / SN'}
    assert found['V'] == frozen
    assert found['VI'] == frozen | {'GN / SN'}
    scratch = {f'{n} / {n}, scratch' for n in ('BN', 'GN', 'SN')}
    finetuned = {f'{n} / {n}' for n in ('BN†', 'BN', 'GN', 'SN')}
    assert found['IV'] == scratch | finetuned
    batches = ('(8, 2)', '(8, 4)', '(8, 32)')
    sn = {f'{n} {b}' for n in ('SN', 'SyncSN') for b in batches}
    assert found['VII'] == found['VIII'] == {'SyncBN', 'GN'} | sn


@pytest.mark.parametrize(
    'table, label, dataset, metrics',
    [
        # stated in the paper's text as well as in its tables
        ('IV', 'SN / SN', 'COCO', {'box AP': 33.0}),
        ('IV', 'SN / SN, scratch', 'COCO', {'box AP': 29.5}),
        ('V', 'BN† / SN', 'COCO', {'box AP': 38.0}),
        ('VI', 'SN / SN', 'COCO', {'box AP': 41.0, 'mask AP': 36.5}),
        ('VII', 'SN (8, 2)', 'ADE20K', {'mIoU': 38.7, 'mIoU(ms)': 39.2}),
        ('VII', 'SyncSN (8, 32)', 'ADE20K', {'mIoU': 40.0, 'mIoU(ms)': 40.4}),
        ('VIII', 'SN (8, 4)', 'Cityscapes', {'mIoU': 77.1, 'mIoU(ms)': 77.9}),
    ],
)
def test_numbers(paper, table, label, dataset, metrics):
    (row,) = (
        row
        for row in paper.rows
        if (row.table, row.label) == (table, label)
        and row.results[0].dataset == dataset
    )
    found = {k: v for result in row.results for k, v in result.metrics.items()}
    assert {name: found[name] for name in metrics} == metrics


def written(content, folder):
    """The folder with paper.yml of this content, and its configs, empty."""
    for table in content['tables']:
        for row in table['rows']:
            for name in row['configs']:
                path = folder / f'{name}.py'
                path.parent.mkdir(exist_ok=True)
                path.touch()
    (folder / 'paper.yml').write_text(yaml.safe_dump(content))
    return folder


def test_reads_back(content, tmp_path, paper):
    assert read_paper(written(content, tmp_path)) == paper


def test_a_row_without_config(content, tmp_path):
    content['tables'][1]['rows'][2]['configs'] = []
    with pytest.raises(CatalogError, match='Table V, row BN† / SN: no config'):
        read_paper(written(content, tmp_path))


def test_a_config_that_is_missing(content, tmp_path):
    folder = written(content, tmp_path)
    name = content['tables'][0]['rows'][0]['configs'][0]
    (folder / f'{name}.py').unlink()
    with pytest.raises(CatalogError, match=f'Table IV, .*{name}'):
        read_paper(folder)


def test_a_value_that_is_missing(content, tmp_path):
    content['tables'][2]['rows'][0]['values'].pop()
    with pytest.raises(CatalogError, match='5 values for 6 metrics'):
        read_paper(written(content, tmp_path))


@pytest.mark.parametrize('text', ['tables: [', 'tables: []', '- a', ''])
def test_a_malformed_file(text, tmp_path):
    (tmp_path / 'paper.yml').write_text(text)
    with pytest.raises(CatalogError, match='malformed'):
        read_paper(tmp_path)


def test_no_file(tmp_path):
    with pytest.raises(CatalogError, match='paper.yml cannot be read'):
        read_paper(tmp_path)
