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

# mmcv is in no extra but its own two, of which one is to be chosen: mmcv-lite
# has no compiled operators, and sn_mm's take their place. mmdet and mmseg
# refuse mmcv 2.2.
EXTRAS = {
    'lite': ['mmcv-lite>=2.0.0,<2.2'],
    'full': ['mmcv>=2.0.0,<2.2'],
    'det': ['mmdet>=3.0.0', 'pycocotools'],
    'seg': ['mmsegmentation>=1.0.0', 'ftfy'],
    'pretrain': ['mmpretrain>=1.0.0'],
    'demo': ['pycocotools', 'scikit-learn'],
    'plot': ['matplotlib'],
    'cityscapes': ['cityscapesscripts'],
    'safetensors': ['safetensors'],
    'onnx': ['onnx', 'onnxruntime', 'onnxscript'],
    'tests': ['pytest>=7.0'],
    'dev': ['pre-commit', 'ruff'],
}
EXTRAS['all'] = sorted(
    {name for key in EXTRAS if key != 'full' for name in EXTRAS[key]}
)


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
    # beside the package: the start of the interpreter imports it alone
    py_modules=['sn_mm_ops'],
    packages=find_packages(include=['sn_mm', 'sn_mm.*']),
    package_data={'sn_mm': ['**/*.c', '**/*.h']},
    cmdclass={'build_py': BuildWithConfigs},
    python_requires='>=3.9',
    install_requires=[
        'torch>=2.0',
        'mmengine>=0.10.0',
        'numpy',
        'setuptools<81',  # mmengine imports pkg_resources
    ],
    entry_points={
        'console_scripts': ['sn-mm-doctor = sn_mm.doctor.__main__:main']
    },
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
        'Programming Language :: Python :: 3.13',
        'Topic :: Scientific/Engineering :: Artificial Intelligence',
        'Topic :: Scientific/Engineering :: Image Recognition',
    ],
    zip_safe=False,
)
