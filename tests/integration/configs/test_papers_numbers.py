# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""Titles, arXiv numbers and results: as the papers have them.

tests/data/paper_tables.yml was typed from the papers. What this repository
says is compared with it: configs/paper.yml, metafiles, READMEs and docs.
"""

import re

import pytest
import yaml

from catalog import read_paper
from tests.paths import ROOT

CONFIGS = ROOT / 'configs'
PAPER = yaml.safe_load((ROOT / 'tests/data/paper_tables.yml').read_text())
DOCS = sorted(
    [ROOT / 'README.md', *ROOT.glob('docs/**/*.md'), *CONFIGS.glob('*/*.md')]
)
# of this repository: what it says of the papers
TEXTS = [
    path
    for folder in ('sn_mm', 'tools', 'configs')
    for path in sorted((ROOT / folder).rglob('*'))
    if path.suffix in ('.py', '.yml', '.md', '.c', '.h')
] + DOCS
ARXIV_ICLR, ARXIV_TPAMI = PAPER['titles']


def relative(path):
    return str(path.relative_to(ROOT))


def joined(path):
    """The text with line ends, comment signs and quotes taken out of it."""
    text = path.read_text(encoding='utf-8')
    return ' '.join(
        re.sub(r'^\s*[#*]\s|[\'"_*]', ' ', text, flags=re.M).split()
    )


# -- titles and arXiv numbers --------------------------------------------
def test_titles():
    """Where one of the papers is called by its title, it is its title."""
    for path in TEXTS:
        text = joined(path)
        for begin in (
            'Differentiable Learning-to-Normalize via',
            'for Learning-to-Normalize Deep',
        ):
            (title,) = (t for t in PAPER['titles'].values() if begin in t)
            for match in re.finditer(re.escape(begin), text):
                start = match.start() - title.index(begin)
                found = text[start : start + len(title)]
                assert found == title, f'{relative(path)}: {found}'


def test_arxiv_numbers():
    """Roman tables and TPAMI are 1907.10473, ICLR is 1806.10779."""
    seen = set()
    for path in TEXTS:
        text = joined(path)
        for match in re.finditer(r'(1806\.10779|1907\.10473)', text):
            number = match[1]
            seen.add(number)
            # the nearest name of a paper: in front, or in the link's text
            before = text[max(0, match.start() - 200) : match.start()]
            names = re.findall(
                r'TPAMI|ICLR|Deep Representation|Differentiable|'
                r'Tables? [IVX]+\b',
                before,
            )
            if names:
                iclr = names[-1] in ('ICLR', 'Differentiable')
                want = ARXIV_ICLR if iclr else ARXIV_TPAMI
                assert number == want, f'{relative(path)}: {before[-80:]}'
    assert seen == {ARXIV_ICLR, ARXIV_TPAMI}


def test_metafiles_name_their_paper():
    for path in CONFIGS.glob('*/metafile.yml'):
        (collection,) = yaml.safe_load(path.read_text())['Collections']
        paper = collection['Paper']
        number = paper['URL'].rpartition('/')[2]
        assert paper['Title'] == PAPER['titles'][number]
        assert number == ARXIV_TPAMI  # its tables are the configs' rows


# -- configs/paper.yml and what is made from it --------------------------
def values_of(row):
    return [v for r in row.results for v in r.metrics.values()]


def test_every_number_of_the_rows():
    rows = read_paper(CONFIGS).rows
    seen = {table: {} for table in ('IV', 'V', 'VI', 'VII', 'VIII')}
    for row in rows:
        # VII has its two data sets in rows of their own
        seen[row.table].setdefault(row.label, []).extend(values_of(row))
    for table, found in seen.items():
        assert found == PAPER[table], f'Table {table}'


def models():
    for path in sorted(CONFIGS.glob('*/metafile.yml')):
        yield from yaml.safe_load(path.read_text())['Models']


def test_results_of_the_paper_are_not_the_models_own():
    assert [m['Name'] for m in models() if 'Results' in m] == []


def test_paper_results_of_the_metafiles():
    found = {}
    for model in models():
        results = model['Metadata'].get('Paper Results')
        assert (results is None) == ('Paper Row' not in model['Metadata'])
        if results is not None:
            row = model['Metadata']['Paper Row'].removeprefix('Table ')
            values = [v for r in results for v in r['Metrics'].values()]
            data = {r['Dataset'] for r in results}
            found[model['Name']] = (row, *data, values)
    for name, (row, data, values) in found.items():
        table, _, label = row.partition(': ')
        if table in ('II', 'III'):
            continue  # below, with the README
        want = PAPER[table][label]
        if table == 'VII':
            want = want[:2] if data == 'ADE20K' else want[2:]
        assert values == want, name
    assert len(found) > 60


# -- ImageNet --------------------------------------------------------------
def imagenet(name):
    """Top-1 and maybe top-5 of a pretraining config, by its name."""
    match = re.match(r'resnet(\d+)_(sn|gn|bn)(?:-nobn)?_8xb(\d+)_in1k$', name)
    if match is None:
        return None
    depth, norm, images = int(match[1]), match[2].upper(), int(match[3])
    by_depth = PAPER['III']['depth'][depth]
    if images == 32 and norm in by_depth:
        return by_depth[norm]
    if depth != 50:
        return None
    value = PAPER['II'][norm][PAPER['II']['batches'].index([8, images])]
    return None if value is None else [value]


def test_imagenet_metafile():
    content = yaml.safe_load((CONFIGS / 'pretrain/metafile.yml').read_text())
    for model in content['Models']:
        results = model['Metadata'].get('Paper Results')
        values = results and list(results[0]['Metrics'].values())
        assert values == imagenet(model['Name']), model['Name']


def test_imagenet_readme_and_configs():
    readme = (CONFIGS / 'pretrain/README.md').read_text()
    rows = re.findall(
        r'^\| \[(\w[^]]*)\].*?\|.*?\|.*?\| (.*?) \|', readme, re.M
    )
    assert len(rows) > 30
    for name, cell in rows:
        values = [float(v) for v in cell.split('/') if v.strip()]
        assert (values or None) == imagenet(name), name
        text = (CONFIGS / f'pretrain/{name}.py').read_text()
        for top1 in re.findall(r'([\d.]+)% top-1', text):
            assert float(top1) == values[0], name


# -- tables and sentences of the docs --------------------------------------
def cells(text, label):
    """The numbers of a Markdown row whose first cell is ``label``."""
    (row,) = re.findall(rf'^ *\| {re.escape(label)} \|(.*)\|$', text, re.M)
    return [
        [float(v) for v in re.findall(r'\d+\.\d+', cell)]
        for cell in row.split('|')
    ]


def test_tables_of_sn_or_syncsn():
    text = (ROOT / 'docs/sn_or_syncsn.md').read_text()
    batches = [[8, n] for n in (32, 16, 8, 4, 2, 1)]
    top1 = text.partition('Table 2')[2].partition('Table VII')[0]
    for norm in ('BN', 'GN', 'SN'):
        at = [PAPER['II']['batches'].index(batch) for batch in batches]
        want = [PAPER['II'][norm][i] for i in at]
        assert cells(top1, norm) == [[v] if v else [] for v in want]
    miou = text.partition('Table VII')[2].partition('Table VIII')[0]
    for norm in ('SyncBN', 'GN'):
        want = PAPER['VII'][norm]
        assert cells(miou, norm) == [[want[0]], [want[2]]]
    for norm in ('SN', 'SyncSN'):
        rows = [
            v for k, v in PAPER['VII'].items() if k.startswith(f'{norm} (')
        ]
        best = [[max(row[i] for row in rows)] for i in (0, 2)]
        assert cells(miou, f'{norm}, best') == best


def at(table, label, index):
    return PAPER[table][label][index]


def top1(norm, images):
    return PAPER['II'][norm][PAPER['II']['batches'].index([8, images])]


CLAIMS = {
    'README.md': [
        f'65.3% top-1 with BN and {top1("SN", 2)}% with SN',
        f'{at("IV", "BN / BN", 0)} AP with BN and '
        f'{at("IV", "SN / SN", 0)} with SN when finetuned, '
        f'{at("IV", "BN / BN, scratch", 0)} and '
        f'{at("IV", "SN / SN, scratch", 0)} from scratch',
        f"GN's {top1('GN', 2)} and {top1('GN', 1)} are above SN's "
        f'{top1("SN", 2)} and {top1("SN", 1)}',
        f'ADE20K {at("VII", "SyncSN (8, 32)", 0)} against '
        f'{at("VII", "SN (8, 2)", 0)} mIoU, Cityscapes '
        f'{at("VII", "SyncSN (8, 32)", 2)} against '
        f'{at("VII", "SN (8, 32)", 2)}',
    ],
    'docs/sn_or_syncsn.md': [
        f'GN {top1("GN", 2)} and {top1("GN", 1)}, SN {top1("SN", 2)} and '
        f'{top1("SN", 1)}',
        f'the best of both reach {at("VIII", "SN (8, 4)", 0)}, SyncBN '
        f'{at("VIII", "SyncBN", 0)}, GN {at("VIII", "GN", 0)}',
        f'SN from (8, 2) {at("VIII", "SN (8, 2)", 0)} and from (8, 32) '
        f'{at("VIII", "SN (8, 32)", 0)}, SyncSN from (8, 2) '
        f'{at("VIII", "SyncSN (8, 2)", 0)}',
        f'AP of GN {at("IV", "GN / GN", 3)}, of SN {at("IV", "SN / SN", 3)}',
        f'mask AP75 is {at("VI", "BN† / GN", 5)} with GN and with SN',
        f'SN from (8, 2) {at("VII", "SN (8, 2)", 0)}, from (8, 32) '
        f'{at("VII", "SN (8, 32)", 0)}',
        f'({at("VII", "SyncSN (8, 2)", 0)} and '
        f'{at("VII", "SyncSN (8, 32)", 0)})',
    ],
    'docs/batch_average.md': [
        '{:.2f}% from 50 000 images and {:.2f}% from all, against '
        '{:.2f}% with the moving average'.format(*PAPER['batch_average']),
    ],
    'configs/pretrain/README.md': [
        f'GN has {top1("GN", 2)} and {top1("GN", 1)}, SN {top1("SN", 2)} and '
        f'{top1("SN", 1)}',
    ],
}


@pytest.mark.parametrize(
    ('name', 'claim'),
    [(name, claim) for name, claims in CLAIMS.items() for claim in claims],
)
def test_sentences(name, claim):
    assert claim in ' '.join((ROOT / name).read_text().split())


def numbers_of(content):
    if isinstance(content, dict):
        content = content.values()
    if isinstance(content, (str, int)) or content is None:
        return set()
    if isinstance(content, float):
        return {content}
    return set().union(*map(numbers_of, content))


@pytest.mark.parametrize('path', DOCS, ids=relative)
def test_no_other_numbers_near_the_papers(path):
    """A paragraph that speaks of the papers has no results but theirs."""
    known = numbers_of(PAPER)
    text = re.sub(r'\d{4}\.\d{5}|\d+\.\d+\.\d+', '', path.read_text())
    for paragraph in re.split(r'\n\s*\n', text):
        if re.search(r'\bpapers?\b|TPAMI|ICLR|Luo|\| [IVX]+: ', paragraph):
            found = re.findall(
                r'(?<![\w.])(\d\d\.\d\d?)(?![\w.]|\d)', paragraph
            )
            strange = {v for v in found if float(v) not in known}
            assert not strange, paragraph
