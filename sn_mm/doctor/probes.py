# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""What is known only by importing: run in a child process, as a script.

    python probes.py FILE PROBE...

Appends to FILE one line of JSON for each probe once it is done, so that
those before a crash are kept. A probe returns what it found, or raises.
"""

import importlib
import json
import os
import sys


def probe_torch():
    import torch

    found = {
        'version': torch.__version__,
        'built_for': torch.version.cuda or '',
        'gpus': [],
    }
    if torch.cuda.is_available():
        count = torch.cuda.device_count()
        found['gpus'] = [torch.cuda.get_device_name(i) for i in range(count)]
    return found


def probe_numpy():
    """numpy, and whether torch was built for it."""
    import numpy
    import torch

    torch.from_numpy(numpy.zeros(1)).numpy()
    return {'version': numpy.__version__}


def probe_torchvision():
    import torch
    import torchvision

    torch.ops.torchvision.nms  # noqa: B018  (raises where it is missing)
    return {'version': torchvision.__version__}


def probe_pkg_resources():
    import warnings

    warnings.simplefilter('ignore')
    import pkg_resources  # noqa: F401

    return {}


def probe_operators():
    """Whose operators ``import mmcv.ops`` gets, without help of sn_mm."""
    import mmcv._ext
    import mmcv.ops

    compiled = not mmcv._ext.__file__.endswith('.py')
    return {
        'compiled': compiled,
        'cuda': mmcv.ops.get_compiling_cuda_version() if compiled else '',
        'names': [] if compiled else sorted(mmcv._ext.__all__),
    }


def probe_sn_mm():
    import sn_mm

    return {'version': sn_mm.__version__, 'file': sn_mm.__file__}


def probe_cpu_backend():
    import torch

    import sn_mm

    found = sn_mm.backends(torch.rand(2, 8, 16, 16))
    return {'chosen': found.chosen, 'why_not': found.why_not}


def probe_gpu_backend():
    import torch

    import sn_mm

    found = sn_mm.backends(torch.rand(2, 8, 16, 16, device='cuda'))
    return {'chosen': found.chosen, 'why_not': found.why_not}


def probe_checkpoints():
    from sn_mm.checkpoints.locate import folder

    return {'folder': str(folder().absolute())}


def probe_data():
    """The data sets of the paper that are here, in part or whole."""
    from sn_mm.datasets import data_layouts

    roots = {
        'data/coco': data_layouts.COCO,
        'data/cityscapes': data_layouts.CITYSCAPES,
        'data/ade/ADEChallengeData2016': data_layouts.ADE20K,
        'data/imagenet': data_layouts.IMAGENET,
    }
    found = {}
    for root, layout in roots.items():
        if os.path.isdir(root):
            tree = [
                t for t in layout.tree if not t.startswith(('and', 'test'))
            ]
            parts = sorted({t.split('/')[0] for t in tree})
            lacks = [
                part
                for part in parts
                if not os.path.isdir(os.path.join(root, part))
            ]
            found[root] = {'lacks': lacks, 'layout': layout.describe(root)}
    return found


def run(name):
    """The probe of that name; of any other name, an import."""
    probe = globals().get(f'probe_{name}')
    if probe is not None:
        return probe()
    module = importlib.import_module(name)
    return {'version': getattr(module, '__version__', '')}


def describe(error):
    """The type and the first line of an error."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f'{type(error).__name__}: {lines[0] if lines else ""}'


def main(file, *names):
    for name in names:
        try:
            result = {'found': run(name)}
        except BaseException as error:  # also SystemExit
            result = {'error': describe(error), 'message': str(error)}
        with open(file, 'a', encoding='utf-8') as out:
            out.write(json.dumps({'probe': name, **result}) + '\n')


if __name__ == '__main__':
    main(*sys.argv[1:])
