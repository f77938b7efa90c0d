# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""From what is installed and what imports to what fits, and to the fixes."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

from .children import Outcome, probe
from .findings import Finding

PIP = f'"{sys.executable}" -m pip'
LITE = f'{PIP} install "mmcv-lite==2.1.0"'
MMCV = ('mmcv', 'mmcv-full', 'mmcv-lite', 'onedl-mmcv')
TOOLBOXES = {
    'mmdet': ('mmdet', 'onedl-mmdetection'),
    'mmseg': ('mmsegmentation', 'onedl-mmsegmentation'),
    'mmpretrain': ('mmpretrain', 'onedl-mmpretrain'),
}
OF_MODULE = {'pkg_resources': '"setuptools<81"', 'sklearn': 'scikit-learn'}


def examine(needed: Sequence[str] = (), folders: bool = True) -> list[Finding]:
    """Everything that the page shows, in its order.

    Args:
        needed: toolboxes (keys of TOOLBOXES) whose absence is a misfit.
        folders: whether to look at folders too.
    """
    seen = probe(
        [
            *('torch', 'numpy', 'torchvision', 'pkg_resources', 'mmengine'),
            *('mmcv', 'operators', *(f'{name}.apis' for name in TOOLBOXES)),
            *('sn_mm', 'cpu_backend', 'gpu_backend', 'triton'),
            *(('checkpoints', 'data') if folders else ()),
        ]
    )
    findings = [check_python(), check_torch(seen), check_numpy(seen)]
    findings += [check_torchvision(seen), check_setuptools(seen)]
    findings += [check_mmengine(seen), *check_mmcv(seen)]
    findings += [check_toolbox(n, seen, n in needed) for n in TOOLBOXES]
    findings += [check_sn_mm(seen), check_c(seen), *check_gpu(seen)]
    if folders:
        findings += [check_cache(), check_checkpoints(seen)]
        findings += check_data(seen)
    return findings


def versions(names: tuple[str, ...]) -> dict[str, str]:
    """Those of some distributions that are installed, with versions."""
    found = {}
    for name in names:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            pass
    return found


def release(version: str) -> tuple[int, ...]:
    """The leading numbers of a version."""
    return tuple(int(n) for n in re.findall(r'\d+', version)[:3])


def missing_module(outcome: Outcome) -> str:
    """The package that an import did not find, or ''."""
    found = re.match(
        r"ModuleNotFoundError: No module named '([\w.]+)'", outcome.error
    )
    return found[1].split('.')[0] if found else ''


def shown_above(outcome: Outcome, seen: dict[str, Outcome]) -> bool:
    """Whether what was probed before failed alike: the cause is there."""
    for earlier in seen.values():
        if earlier is outcome:
            return False
        if earlier.error == outcome.error:
            return True
    return False


def fix_import(
    outcome: Outcome, reinstall: str, seen: dict[str, Outcome]
) -> str:
    """What helps against an import that failed."""
    if shown_above(outcome, seen):
        return 'See above.'
    missing = missing_module(outcome)
    if missing:
        return f'{PIP} install {OF_MODULE.get(missing, missing)}'
    return f'{PIP} install --force-reinstall --no-deps {reinstall}'


# --- Python and PyTorch -----------------------------------------------------


def check_python() -> Finding:
    text = f'{platform.python_version()}, {sys.executable}'
    if tuple(sys.version_info[:2]) < (3, 9):
        fix = 'sn_mm needs Python 3.9 or newer.'
        return Finding('python', text, 'misfit', fix)
    return Finding('python', text)


def check_torch(seen: dict[str, Outcome]) -> Finding:
    outcome = seen['torch']
    if missing_module(outcome) == 'torch':
        fix = f'{PIP} install torch'
        return Finding('torch', 'not installed', 'misfit', fix)
    if outcome.error:
        fix = fix_import(outcome, 'torch', seen)
        return Finding('torch', outcome.error, 'misfit', fix)
    version = outcome.found['version']
    if release(version) < (2, 0):
        fix = f'{PIP} install "torch>=2.0"'
        return Finding('torch', f'{version}: too old', 'misfit', fix)
    gpus, built_for = outcome.found['gpus'], outcome.found['built_for']
    text = f'{version}, CUDA {built_for}' if built_for else f'{version}, CPU'
    if gpus:
        return Finding('torch', f'{text}, {len(gpus)} GPU(s): {gpus[0]}')
    if _has_driver():
        text += '; this machine has a GPU that it does not use'
        return Finding('torch', text, 'note')
    return Finding('torch', f'{text}, no GPU')


def _has_driver() -> bool:
    """Whether NVIDIA's driver sees a GPU."""
    if shutil.which('nvidia-smi') is None:
        return False
    done = subprocess.run(['nvidia-smi', '-L'], capture_output=True, text=True)
    return done.stdout.startswith('GPU')


def check_numpy(seen: dict[str, Outcome]) -> Finding:
    outcome, have = seen['numpy'], versions(('numpy',))
    if not have:
        return Finding(
            'numpy', 'not installed', 'misfit', f'{PIP} install numpy'
        )
    version = have['numpy']
    if not outcome.error:
        text = version
        if release(version) >= (2, 4) and versions(('cityscapesscripts',)):
            text += '; sn_mm puts back numpy.in1d, which Cityscapes needs'
        return Finding('numpy', text)
    if shown_above(outcome, seen):  # torch, which was tried with it
        return Finding('numpy', version)
    text = f'{version}: {outcome.error}'
    fix = fix_import(outcome, 'numpy', seen)
    if 'Numpy is not available' in outcome.error:
        text = f'{version}, which this torch was not built for'
        fix = f'{PIP} install "numpy<2"'
    return Finding('numpy', text, 'misfit', fix)


def check_torchvision(seen: dict[str, Outcome]) -> Finding:
    outcome = seen['torchvision']
    if missing_module(outcome) in ('torchvision', 'torch'):
        return Finding('torchvision', 'not installed, not needed', 'note')
    if not outcome.error:
        return Finding('torchvision', outcome.found['version'])
    if shown_above(outcome, seen):
        return Finding('torchvision', f'not tried: {outcome.error}', 'note')
    text = f'does not fit this torch, and is not used ({outcome.error})'
    return Finding('torchvision', text, 'note')


# --- OpenMMLab --------------------------------------------------------------


def check_setuptools(seen: dict[str, Outcome]) -> Finding:
    have = versions(('setuptools',)).get('setuptools', 'not installed')
    if not seen['pkg_resources'].error:
        return Finding('setuptools', have)
    return Finding(
        'setuptools',
        f'{have}: without pkg_resources, which mmengine imports',
        'misfit',
        f'{PIP} install "setuptools<81"',
    )


def check_mmengine(seen: dict[str, Outcome]) -> Finding:
    outcome = seen['mmengine']
    if missing_module(outcome) == 'mmengine':
        fix = f'{PIP} install "mmengine>=0.10"'
        return Finding('mmengine', 'not installed', 'misfit', fix)
    if outcome.error:
        fix = fix_import(outcome, 'mmengine', seen)
        return Finding('mmengine', outcome.error, 'misfit', fix)
    text = outcome.found['version']
    torch = seen['torch'].found.get('version', '0')
    if release(torch) >= (2, 6) and versions(('mmengine',)):
        text += '; sn_mm makes its checkpoints load, which torch 2.6 refuses'
    return Finding('mmengine', text)


def check_mmcv(seen: dict[str, Outcome]) -> list[Finding]:
    """mmcv, and its operators."""
    have, outcome = versions(MMCV), seen['mmcv']
    if len(have) > 1:
        text = ' and '.join(f'{n} {v}' for n, v in have.items())
        fix = f'{PIP} uninstall -y {" ".join(have)}\n{LITE}'
        if len(set(have) - {'mmcv-lite'}) == 1:
            (full,) = set(have) - {'mmcv-lite'}
            fix += f'\nor, with compiled operators: {full}=={have[full]}'
        text += ' are installed, one overwriting the other'
        return [Finding('mmcv', text, 'misfit', fix)]
    if missing_module(outcome) == 'mmcv':
        text = 'not installed; layers do without, mmdet and mmseg need it'
        state = 'misfit' if _any_toolbox() else 'note'
        return [Finding('mmcv', text, state, LITE if _any_toolbox() else '')]
    name, version = next(iter(have.items()), ('mmcv', ''))
    if outcome.error:
        fix = fix_import(outcome, f'{name}=={version}', seen)
        return [Finding('mmcv', outcome.error, 'misfit', fix)]
    refusal = refused_mmcv(seen)
    text = f'{name} {version or outcome.found["version"]}'
    if refusal:
        fix = f'{PIP} uninstall -y {name}\n{LITE}'
        return [Finding('mmcv', f'{text}: {refusal}', 'misfit', fix)]
    return [Finding('mmcv', text), check_operators(seen)]


def refused_mmcv(seen: dict[str, Outcome]) -> str:
    """What a toolbox says against the version of mmcv."""
    for name in TOOLBOXES:
        outcome = seen[f'{name}.apis']
        if re.match(r'AssertionError: MMCV==\S+ is used but', outcome.error):
            wanted = re.search(r'install (mmcv\S*?, ?\S+)', outcome.message)
            text = f' ({wanted[1].rstrip(".")})' if wanted else ''
            return f'{name} refuses it{text}'
    return ''


def check_operators(seen: dict[str, Outcome]) -> Finding:
    outcome, gpus = seen['operators'], seen['torch'].found.get('gpus')
    if not outcome.error and outcome.found['compiled']:
        cuda = outcome.found['cuda']
        if cuda != 'not available':
            return Finding('operators', f'compiled, CUDA {cuda}')
        if not gpus:
            return Finding('operators', 'compiled, for the CPU')
        text = 'compiled for the CPU alone: detectors cannot use the GPU'
        fix = f'{PIP} uninstall -y {" ".join(versions(MMCV))}\n{LITE}'
        return Finding('operators', text, 'misfit', fix)
    if not outcome.error:
        names = ', '.join(outcome.found['names'])
        return Finding('operators', f'of sn_mm, from the start ({names})')
    if missing_module(outcome) == 'mmcv' and 'mmcv._ext' in outcome.error:
        text = "only once sn_mm is imported: too late for mmdet's own tools"
        fix = f'"{sys.executable}" -m sn_mm.doctor --install-ops'
        state = 'misfit' if _any_toolbox() else 'note'
        return Finding('operators', text, state, fix)
    if shown_above(outcome, seen):
        return Finding('operators', outcome.error, 'misfit', 'See above.')
    fix = 'The operators were compiled for another torch; build them again, '
    fix += f'or: {PIP} uninstall -y {" ".join(versions(MMCV))}\n{LITE}'
    return Finding('operators', outcome.error, 'misfit', fix)


def _any_toolbox() -> bool:
    return any(versions(names) for names in TOOLBOXES.values())


def check_toolbox(
    name: str, seen: dict[str, Outcome], needed: bool
) -> Finding:
    """mmdet, mmseg or mmpretrain: does its API import?"""
    outcome, have = seen[f'{name}.apis'], versions(TOOLBOXES[name])
    if missing_module(outcome) == name or (outcome.error and not have):
        fix = f'{PIP} install {TOOLBOXES[name][0]}'
        if needed:
            return Finding(name, 'not installed', 'misfit', fix)
        return Finding(name, 'not installed', 'note')
    package, version = next(iter(have.items()), (name, ''))
    if not outcome.error:
        return Finding(name, f'{package} {version}')
    text = f'{package} {version} does not import: {outcome.error}'
    blamed = missing_module(outcome)
    if 'MMCV==' in outcome.error or blamed in ('mmcv', 'mmengine', 'torch'):
        return Finding(name, text, 'misfit', 'See above.')
    fix = fix_import(outcome, f'{package}=={version}', seen)
    return Finding(name, text, 'misfit', fix)


# --- sn_mm ------------------------------------------------------------------


def check_sn_mm(seen: dict[str, Outcome]) -> Finding:
    outcome = seen['sn_mm']
    if not outcome.error:
        found = outcome.found
        text = f'{found["version"]}, {os.path.dirname(found["file"])}'
        return Finding('sn_mm', text)
    taken = re.search(
        r'(\w+) is already registered in (\w+) at (\S+)', outcome.message
    )
    if taken:
        text = f'{taken[3].rstrip(".")} has registered the name {taken[1]}'
        fix = (
            'Two packages cannot share a name: leave one out of '
            'custom_imports, or uninstall it.'
        )
        return Finding('sn_mm', text, 'misfit', fix)
    if missing_module(outcome) in ('torch', 'mmengine'):
        fix = 'See above.'
    else:
        fix = fix_import(outcome, 'sn_mm', seen)
    text = f'does not import: {outcome.error}'
    return Finding('sn_mm', text, 'misfit', fix)


def check_c(seen: dict[str, Outcome]) -> Finding:
    """The kernels in C, on the CPU."""
    outcome, name = seen['cpu_backend'], 'C kernels'
    if outcome.error:
        return Finding(name, f'not tried: {outcome.error}', 'note')
    if outcome.found['chosen'] == 'native':
        return Finding(name, 'compiled, in use')
    why = outcome.found['why_not'].get('native', '')
    text = f'not in use, SN on the CPU is slower: {why}'
    return Finding(name, text, 'note')


def check_gpu(seen: dict[str, Outcome]) -> list[Finding]:
    """Triton and the kernels in it, where there is a GPU."""
    if not seen['torch'].found.get('gpus'):
        return [Finding('Triton', 'not used without a GPU', 'note')]
    triton, outcome = seen['triton'], seen['gpu_backend']
    if triton.error:
        text = f'SN on the GPU is slower without ({triton.error})'
        return [Finding('Triton', text, 'note')]
    text = triton.found['version']
    if outcome.error:
        return [Finding('Triton', f'{text}: {outcome.error}', 'note')]
    if outcome.found['chosen'] != 'triton':
        why = outcome.found['why_not'].get('triton', '')
        return [Finding('Triton', f'{text}, not in use: {why}', 'note')]
    return [Finding('Triton', f'{text}, in use')]


# --- folders ----------------------------------------------------------------


def check_cache() -> Finding:
    """The folder that what sn_mm compiles is kept in."""
    root, home = os.environ.get('XDG_CACHE_HOME'), os.path.expanduser('~')
    if not root and os.path.isabs(home):
        root = os.path.join(home, '.cache')
    folder = Path(root or '.') / 'sn_mm'
    nearest = next(
        p for p in (folder, *folder.absolute().parents) if p.exists()
    )
    if root and os.access(nearest, os.W_OK):
        return Finding('cache', str(folder))
    text = f'{folder} cannot be written' if root else 'no home folder'
    text += ': C kernels are compiled by every process anew'
    fix = 'Set XDG_CACHE_HOME to a folder that can be written.'
    return Finding('cache', text, 'misfit', fix)


def check_checkpoints(seen: dict[str, Outcome]) -> Finding:
    """The folder of downloaded checkpoints."""
    outcome = seen['checkpoints']
    if outcome.error:
        return Finding(
            'checkpoints', f'not looked for: {outcome.error}', 'note'
        )
    folder = Path(outcome.found['folder'])
    if folder.is_dir():
        count = sum(1 for path in folder.iterdir() if path.is_file())
        return Finding('checkpoints', f'{folder} ({count} files)')
    if os.environ.get('SN_MM_CHECKPOINTS'):
        fix = 'Make that folder, or set SN_MM_CHECKPOINTS to another one.'
        text = f'{folder} is not there'
        return Finding('checkpoints', text, 'misfit', fix)
    text = f'no folder {folder}; sn://NAME looks for files there'
    return Finding('checkpoints', text, 'note')


def check_data(seen: dict[str, Outcome]) -> list[Finding]:
    """The paper's data sets, of those that are here."""
    outcome = seen['data']
    if outcome.error:
        return [Finding('data', f'not looked for: {outcome.error}', 'note')]
    if not outcome.found:
        text = f'no data set of the paper under {os.path.abspath("data")}'
        return [Finding('data', text, 'note')]
    findings = []
    for root, found in outcome.found.items():
        if found['lacks']:
            text = f'{root} lacks {", ".join(found["lacks"])}'
            findings.append(Finding('data', text, 'misfit', found['layout']))
        else:
            findings.append(Finding('data', root))
    return findings
