# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""Packaging of sn_mm.

The toolboxes are extras, not requirements: most users already have an
environment whose mmcv fits their PyTorch, and installing sn_mm must not move
either of them. Pinned sets that are known to work are in requirements/.
"""

import shutil
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent

EXTRAS = {
    'det': ['mmcv>=2.0.0', 'mmdet>=3.0.0', 'pycocotools'],
    'seg': ['mmcv>=2.0.0', 'mmsegmentation>=1.0.0', 'ftfy'],
    'pretrain': ['mmcv>=2.0.0', 'mmpretrain>=1.0.0'],
    'demo': ['pycocotools', 'scikit-learn'],
    'plot': ['matplotlib'],
    'cityscapes': ['cityscapesscripts'],
    'onnx': ['onnx', 'onnxruntime', 'onnxscript'],
    'tests': ['pytest>=7.0'],
    'dev': ['pre-commit', 'ruff'],
}
EXTRAS['all'] = sorted({name for group in EXTRAS.values() for name in group})


class BuildWithConfigs(build_py):
    """Puts configs and tools where mim looks for them: sn_mm/.mim."""

    def run(self):
        super().run()
        if getattr(self, 'editable_mode', False):
            return  # they lie beside the package
        out = Path(self.build_lib) / 'sn_mm' / '.mim'
        skip = shutil.ignore_patterns('__pycache__')
        for name in ('configs', 'tools'):
            shutil.rmtree(out / name, ignore_errors=True)
            shutil.copytree(ROOT / name, out / name, ignore=skip)
        shutil.copy2(ROOT / 'model-index.yml', out)


def read_version() -> str:
    """Returns the version without importing sn_mm, which needs torch."""
    scope = {}
    exec((ROOT / 'sn_mm' / 'version.py').read_text(), scope)
    return scope['__version__']


def read_description() -> str:
    """Returns the README, or nothing where only the package was copied."""
    readme = ROOT / 'README.md'
    return readme.read_text(encoding='utf-8') if readme.exists() else ''


setup(
    name='sn_mm',
    version=read_version(),
    description='Switchable Normalization for OpenMMLab',
    long_description=read_description(),
    long_description_content_type='text/markdown',
    author='sn_mm authors',
    license='Apache-2.0',
    packages=find_packages(include=['sn_mm', 'sn_mm.*']),
    package_data={'sn_mm': ['**/*.c', '**/*.h']},
    cmdclass={'build_py': BuildWithConfigs},
    python_requires='>=3.9',
    install_requires=['torch>=2.0', 'mmengine>=0.10.0', 'numpy'],
    extras_require=EXTRAS,
    classifiers=[
        'Development Status :: 4 - Beta',
        'Intended Audience :: Developers',
        'Intended Audience :: Science/Research',
        'License :: OSI Approved :: Apache Software License',
        'Operating System :: OS Independent',
        'Programming Language :: Python :: 3',
        'Programming Language :: Python :: 3.9',
        'Programming Language :: Python :: 3.10',
        'Programming Language :: Python :: 3.11',
        'Programming Language :: Python :: 3.12',
        'Topic :: Scientific/Engineering :: Artificial Intelligence',
        'Topic :: Scientific/Engineering :: Image Recognition',
    ],
    zip_safe=False,
)
