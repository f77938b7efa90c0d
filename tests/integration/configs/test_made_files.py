# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""Metafiles, READMEs and docs/configs.md say what the configs say."""

from collections import Counter
from pathlib import Path

import pytest
import yaml

from catalog import CatalogError, made_files, write_catalog
from catalog.markdown import BEGIN, END, replaced, table
from tests import families
from tests.paths import CONFIGS, ROOT

STALE = 'stale: run `python tools/list_configs.py --write`'


@pytest.fixture(scope='module')
def paper():
    return families.paper()


@pytest.fixture(scope='module')
def entries():
    return families.entries()


@pytest.fixture(scope='module')
def made(paper, entries):
    return made_files.made_files(ROOT, paper, entries)


def test_metafiles_and_readmes_are_up_to_date(made, paper):
    for family in paper.families:
        for name in ('metafile.yml', 'README.md'):
            path = CONFIGS / family.folder / name
            assert path.read_text() == made[path], f'{path} is {STALE}'


def test_docs_have_every_config(entries):
    text = (ROOT / 'docs' / 'configs.md').read_text()
    for line in table(entries, '../configs').splitlines():
        assert line in text, f'docs/configs.md is {STALE}: {line}'
    # those of other toolboxes may not be readable here, but have names
    for path in CONFIGS.glob('*/**/*.py'):
        if '_base_' not in path.parts:
            link = f'(../configs/{path.relative_to(CONFIGS)})'
            assert link in text, f'docs/configs.md is {STALE}: {link}'


def test_model_index_imports_every_metafile():
    index = yaml.safe_load((ROOT / 'model-index.yml').read_text())
    found = {p.relative_to(ROOT) for p in CONFIGS.glob('*/metafile.yml')}
    assert set(map(Path, index['Import'])) == found, STALE


def test_metafiles_name_what_exists(paper, entries):
    names = []
    for family in paper.families:
        content = yaml.safe_load(
            (CONFIGS / family.folder / 'metafile.yml').read_text()
        )
        (collection,) = content['Collections']
        assert (ROOT / collection['README']).is_file()
        for model in content['Models']:
            assert model['In Collection'] == collection['Name']
            path = ROOT / model['Config']
            assert path.is_file() and path.stem == model['Name']
            names.append(model['Name'])
    assert len(set(names)) == len(names)
    assert set(names) == {entry.name for entry in entries}


def test_names_are_unique(entries):
    """A run's folder, and what mim looks for, is the file's name."""
    names = Counter(
        path.stem
        for path in CONFIGS.glob('*/**/*.py')
        if '_base_' not in path.parts
    )
    assert {names[entry.name] for entry in entries} == {1}


def test_mim_reads_the_metafiles(entries):
    load = pytest.importorskip('modelindex.load_model_index').load
    index = load(str(ROOT / 'model-index.yml'))
    index.build_models_with_collections()
    by_name = {model.name: model for model in index.models}
    for entry in entries:
        model = by_name[entry.name]
        assert model.config == f'configs/{entry.config}.py'
        if entry.rows:
            want = entry.rows[0].results[0]
            (shown, *_) = model.metadata.data['Paper Results']
            assert shown['Metrics'] == want.metrics
            assert shown['Dataset'] == want.dataset
        assert not model.results  # nobody has trained it
    # OpenMMLab's paths start at the repository, model-index's at the metafile
    problems = [p for p in index.check(silent=True) if 'README' not in p]
    assert problems == []


def test_a_table_needs_its_place(paper, entries, tmp_path):
    for family in paper.families:
        (tmp_path / 'configs' / family.folder).mkdir(parents=True)
    with pytest.raises(CatalogError, match='README.md needs the two lines'):
        write_catalog(tmp_path, paper, entries)
    assert not [p for p in tmp_path.rglob('*') if p.is_file()]


def test_writing(paper, entries, tmp_path):
    places = [f'configs/{f.folder}/README.md' for f in paper.families]
    for place in [*places, 'docs/configs.md']:
        path = tmp_path / place
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f'# Title\n\nbefore\n{BEGIN}\nold\n{END}\nafter\n')
    changed = write_catalog(tmp_path, paper, entries)
    assert len(changed) == 2 * len(places) + 2
    assert write_catalog(tmp_path, paper, entries) == []
    text = (tmp_path / places[0]).read_text()
    assert text.startswith('# Title\n\nbefore\n')
    assert text.endswith('\nafter\n') and 'old' not in text
    assert not [p for p in tmp_path.rglob('*.new')]


def test_marks():
    assert replaced('no marks', 'x') is None
    assert replaced(f'{END} {BEGIN}', 'x') is None
    once = replaced(f'a\n{BEGIN}\n{END}\nb', 'x')
    assert replaced(once, 'x') == once
