# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""Print every norm layer of a config's model, and what training does to it.

Shows at once whether the config does what was meant: component, type, ratios,
what trains and what weight decay reaches. Warns of what the paper advises
against. Builds the model; needs no data and starts no training.

    python tools/print_norms.py CONFIG
    python tools/print_norms.py CONFIG --checkpoint CHECKPOINT
    python tools/print_norms.py CONFIG --init-weights --json norms.json
"""

# ruff: noqa: E402

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

# the modules beside this file, also where another program imports it
sys.path.insert(0, str(Path(__file__).resolve().parent))

from tool_arguments import add_common_arguments, add_config_argument


def parse_args(args: list | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_config_argument(parser)
    parser.add_argument(
        '--checkpoint', metavar='FILE', help='show the ratios of these weights'
    )
    parser.add_argument(
        '--init-weights',
        action='store_true',
        help='show the ratios that training starts with: load what init_cfg '
        'and load_from name, which may download it',
    )
    parser.add_argument(
        '--pretrain-batch',
        type=int,
        metavar='N',
        help='images per GPU behind the weights that training starts from; '
        'by default what their names say (8xb32)',
    )
    parser.add_argument(
        '--size',
        type=int,
        default=256,
        metavar='PIXELS',
        help='side of the example image that map sizes are looked up with '
        '(default: %(default)s)',
    )
    parser.add_argument('--json', metavar='FILE', help='write the table there')
    add_common_arguments(parser)
    return parser.parse_args(args)


if __name__ == '__main__':
    # Help and wrong arguments are answered before PyTorch is imported.
    parse_args(None)

from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.runner import load_checkpoint
from torch import nn

import sn_mm  # noqa: F401  (registers the layers)
from sn_mm import cli
from sn_mm.analysis import advice, config_advice, norm_table, sparse_advice
from sn_mm.analysis.caveats import caveats
from sn_mm.analysis.start_files import filled_norms
from sn_mm.analysis.starts import starts_of_layers
from sn_mm.anatomy import find_norms
from sn_mm.anatomy.example import ExampleError
from sn_mm.anatomy.starts import note_start
from sn_mm.anatomy.trace import trace_norms
from sn_mm.anatomy.untrained import moved_by
from sn_mm.checkpoints.sources import SCHEMES
from sn_mm.utils import write_json


def load_or_initialize(
    model: nn.Module, cfg: Config, args: argparse.Namespace
) -> bool:
    """Load weights if told to; whether the ratios are trained ones."""
    if args.checkpoint:
        cli.check_checkpoint(args.checkpoint)
        cli.load_weights(model, args.checkpoint)
        return True
    if args.init_weights:
        model.init_weights()
        if cfg.get('load_from'):
            load_start(model, cfg)
        return True
    return False


def load_start(model: nn.Module, cfg: Config) -> None:
    """Load what takes the place of the weights of ``init_cfg``."""
    load_checkpoint(model, cfg.load_from, map_location='cpu')
    (start,) = advice.starts_of(cfg)
    names = filled_norms(model, start)
    for name, layer in find_norms(model).items():
        if not cfg.load_from.startswith(SCHEMES) and name in (names or [name]):
            note_start(layer, cfg.load_from)


def build_optimizer(model: nn.Module, cfg: Config) -> Any:
    """What training would optimize with; None if the config has nothing."""
    if 'optim_wrapper' not in cfg:
        return None
    return build_optim_wrapper(model, cfg.optim_wrapper)


def weight_decay(wrapper: Any) -> dict | None:
    """Weight decay of every parameter, as the optimizer has it."""
    if wrapper is None:
        return None
    optimizers = getattr(wrapper, 'optim_wrappers', {'': wrapper}).values()
    return {
        p: group.get('weight_decay', 0)
        for optimizer in optimizers
        for group in optimizer.param_groups
        for p in group['params']
    }


def find_starts(model, cfg, args) -> dict[str, str]:
    starts = advice.starts_of(cfg)
    if args.checkpoint:
        starts = [advice.Start(args.checkpoint, None, None)]
    return starts_of_layers(model, starts)


def images_per_gpu(cfg: Config) -> int | None:
    return (cfg.get('train_dataloader') or {}).get('batch_size')


def find_warnings(
    model, cfg, rows, args, trained: bool, optimizer
) -> list[str]:
    found, seen = [], {}
    try:
        seen = trace_norms(model, find_norms(model), args.size)
    except ExampleError as error:
        found.append(f'map sizes are not known: {error}')
    found += caveats(find_norms(model))
    found += sparse_advice.frozen_radius(model, cfg)
    starts = advice.starts_of(cfg)
    if args.pretrain_batch:
        starts = [s._replace(images=args.pretrain_batch) for s in starts]
    images = images_per_gpu(cfg)
    found += config_advice.advise_on_config(
        model,
        cfg,
        rows,
        images,
        starts,
        trained,
        None if optimizer is None else moved_by(optimizer, model),
    )
    detects = advice.is_detector(model)
    return found + advice.advise(rows, seen, images, starts, trained, detects)


def as_json(rows, warned: list[str]) -> dict:
    """The table and the warnings, for ``--json``."""
    layers = []
    for row in rows:
        layer = dict(vars(row))
        ratios = layer.pop('ratios')
        if ratios is not None:
            layer['statistics'] = list(ratios.statistics)
            layer['mean'] = ratios.mean.tolist()
            layer['var'] = ratios.var.tolist()
        layers.append(layer)
    return dict(layers=layers, warnings=warned)


@cli.command(OSError)
def main(args: list | None = None) -> None:
    """Print the table."""
    args = parse_args(args)
    cli.hush_model_building()
    cfg = cli.load_config(args.config, args.cfg_options)
    model = cli.build_model(cfg).train()
    trained = load_or_initialize(model, cfg, args)
    optimizer = build_optimizer(model, cfg)
    rows = norm_table.norm_rows(
        model, weight_decay(optimizer), find_starts(model, cfg, args)
    )
    if not rows:
        raise cli.LaunchError(
            f'the model of {args.config} has no norm layer; set norm_cfg at '
            'its parts'
        )
    warned = find_warnings(model, cfg, rows, args, trained, optimizer)
    if args.json:
        write_json(args.json, as_json(rows, warned))
    print(norm_table.table(rows))
    images = images_per_gpu(cfg)
    print(f'\n{norm_table.summary(rows)}')
    print(f'images per GPU: {images if images is not None else "unknown"}')
    for text in warned:
        print(f'warning: {text}')


if __name__ == '__main__':
    sys.exit(main())
