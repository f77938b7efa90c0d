# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""Make of BN weights a start for a config with SN, GN or another norm.

A network with BN, filled from the weights that the config starts from, teaches
the config's own network to give the same outputs on pictures without labels.
OUT is an ordinary checkpoint; of the backbone alone it is one for init_cfg:

    python tools/transplant.py CONFIG --out START.pth
    python tools/transplant.py CONFIG --pictures FOLDER --out START.pth
    python tools/transplant.py CONFIG --teacher TRAINED.pth --parts all \\
        --out START.pth
"""

# ruff: noqa: E402

from __future__ import annotations

import argparse
import sys
from pathlib import Path

# the modules beside this file, also where another program imports it
sys.path.insert(0, str(Path(__file__).resolve().parent))

from tool_arguments import add_config_argument, add_settings_argument


def parse_args(args: list | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_config_argument(parser)
    parser.add_argument(
        '--out',
        required=True,
        metavar='START',
        help='new .pth file; a picture of the errors is written beside it',
    )
    parser.add_argument(
        '--pictures',
        metavar='FOLDER',
        help="folder of pictures (default: the config's training pictures); "
        'they go through its test-time pipeline, and no label is read',
    )
    parser.add_argument(
        '--parts',
        nargs='+',
        default=['backbone'],
        choices=('backbone', 'neck', 'all'),
        help='what is taught: backbone (default), backbone neck, or all, '
        'the heads included',
    )
    parser.add_argument(
        '--teacher',
        metavar='FILE',
        help='BN weights (default: those that the config starts from)',
    )
    parser.add_argument(
        '--teacher-eps',
        type=float,
        metavar='EPS',
        help="eps of the teacher's BN (default: that of the config's norms)",
    )
    parser.add_argument(
        '--norms-only',
        action='store_true',
        help='teach affine parameters and ratios, and leave all else as it is',
    )
    parser.add_argument(
        '--steps', type=int, default=400, help='default: %(default)s'
    )
    parser.add_argument(
        '--lr',
        type=float,
        default=3e-3,
        help='rate of norms and ratios; other weights get a tenth (default: '
        '%(default)s)',
    )
    parser.add_argument(
        '--batch-size',
        type=int,
        metavar='N',
        help='pictures of a step (default: as the config trains)',
    )
    parser.add_argument('--seed', type=int, default=0, help='default: 0')
    parser.add_argument(
        '--resume',
        action='store_true',
        help='go on with a transplant that was interrupted',
    )
    parser.add_argument(
        '--amp', action='store_true', help='half precision (needs a GPU)'
    )
    parser.add_argument(
        '--device',
        help='cpu, cuda, cuda:1 (default: a GPU if there is one)',
    )
    add_settings_argument(parser)
    parsed = parser.parse_args(args)
    for name in ('steps', 'batch_size'):
        value = getattr(parsed, name)
        if value is not None and value < 1:
            parser.error(f'--{name.replace("_", "-")} must be at least 1')
    if not parsed.lr > 0:
        parser.error('--lr must be above 0')
    return parsed


if __name__ == '__main__':
    # Help and wrong arguments are answered before PyTorch is imported.
    parse_args(None)

import torch
from mmengine.config import Config
from torch import nn

import sn_mm  # noqa: F401  (registers the layers)
from sn_mm import cli
from sn_mm.analysis.advice import starts_of
from sn_mm.checkpoints.writer import check_destination, write_checkpoint
from sn_mm.teaching import (
    Transplant,
    TransplantError,
    check_parts,
    transplant,
)
from sn_mm.teaching.pictures import (
    PictureBatches,
    Pictures,
    PicturesError,
    alone,
    in_folder,
    of_training_set,
    split,
    test_pipeline,
)
from sn_mm.teaching.start import size_of, start_content
from sn_mm.teaching.teacher import Teacher, begin, make_teacher
from sn_mm.teaching.transplant import ROWS_HEAD
from sn_mm.teaching.unfold import unfold
from sn_mm.utils import text_table, written_whole

# batches that the statistics of a folded BN are measured on
_UNFOLDED = 32


@cli.command(PicturesError, OSError)
def main(args: list | None = None) -> None:
    """Transplant."""
    args = parse_args(args)
    cli.hush_model_building()
    out = Path(args.out)
    unfinished = out.with_name(f'{out.name}.unfinished')
    check_destination(out)
    _check_unfinished(unfinished, args.resume)
    cfg = cli.load_config(args.config, args.cfg_options)
    with cli.without_prints():
        scope = cli.register_toolbox(cfg)
        parts = _parts(args.parts)
        source = args.teacher or _own_start(cfg, parts)
        pictures = _pictures(cfg, scope, args.pictures)
        student = cli.build_model(cfg).to(_device(args))
        teacher = make_teacher(student, source, parts, args.teacher_eps)
        teacher.model.to(_device(args))
    batch_size = args.batch_size or _batch_size(cfg)
    taught, held_out = split(pictures)
    batches = PictureBatches(
        pictures, taught, batch_size, args.steps, args.seed
    )
    print(
        f'teacher: {source}; {len(teacher.norms)} BN layers; '
        f'{len(pictures.files)} pictures, {len(held_out)} of them held out, '
        f'{batch_size} a step'
    )
    for line in teacher.said:
        print(line)
    if teacher.folded:
        print(
            f'statistics of {len(teacher.folded)} layers are folded into '
            'their weights: measured anew'
        )
        few = min(_UNFOLDED, len(batches))
        unfold(
            teacher.model,
            teacher.folded,
            (batches[i] for i in range(few)),
            parts,
        )
    begin(student, teacher, parts)
    done = _transplant(
        student, teacher, batches, parts, args, unfinished,
        held_out=list(alone(pictures, held_out)),
        notes=dict(teacher=source, pictures=len(pictures.files),
                   batch_size=batch_size),
    )  # fmt: skip
    about = dict(
        config=args.config,
        teacher=source,
        pictures=len(pictures.files) - len(pictures.unreadable),
        pictures_from=args.pictures or 'the training set of the config',
        batch_size=batch_size,
        lr=args.lr,
        norms_only=args.norms_only,
        seed=args.seed,
    )
    content = start_content(student, parts, done, about, teacher.dataset_meta)
    write_checkpoint(content, out, size_of(content), progress=True)
    unfinished.unlink(missing_ok=True)
    picture = out.with_name(f'{out.stem}_errors.png')
    _draw(done, picture)
    for file, why in pictures.unreadable.items():
        print(f'skipped, cannot be read: {file} ({why})')
    print(text_table(ROWS_HEAD, done.rows(), rule=True))
    print(f'state of step {done.best} of {done.steps}; picture: {picture}')
    print(f'wrote {out}\n{_how_to_use(out, parts)}')


def _check_unfinished(path: Path, resume: bool) -> None:
    if path.exists() and not resume:
        raise cli.LaunchError(
            f'{path} is of a transplant that was interrupted: go on with '
            '--resume, or remove the file to begin anew'
        )
    if resume and not path.exists():
        raise cli.LaunchError(
            f'{path} does not exist, so there is nothing to go on with: '
            'leave out --resume'
        )


def _parts(names: list[str]) -> tuple[str, ...]:
    try:
        return check_parts(names)
    except ValueError as error:
        raise cli.LaunchError(str(error)) from error


def _own_start(cfg: Config, parts: tuple[str, ...]) -> str:
    """The BN weights that a config starts from."""
    whole = len(parts) > 1
    for start in starts_of(cfg):
        if start.component == (None if whole else 'backbone'):
            return start.checkpoint
    if not whole and cfg.get('load_from'):
        return cfg.load_from
    what = 'whole model (load_from)' if whole else 'backbone (init_cfg)'
    raise cli.LaunchError(
        f'the config names no weights for the {what}: name those of a '
        'trained network with BN with --teacher FILE'
    )


def _pictures(cfg: Config, scope: str | None, folder: str | None) -> Pictures:
    files = in_folder(folder) if folder else of_training_set(cfg, scope)
    pictures = Pictures(files, test_pipeline(cfg, scope))
    pictures.check()
    return pictures


def _batch_size(cfg: Config) -> int:
    """Pictures of a step of one process."""
    return (cfg.get('train_dataloader') or {}).get('batch_size') or 2


def _device(args: argparse.Namespace) -> str:
    found = args.device or ('cuda' if torch.cuda.is_available() else 'cpu')
    if args.amp and not found.startswith('cuda'):
        raise cli.LaunchError('--amp needs a GPU')
    return found


def _transplant(
    student: nn.Module,
    teacher: Teacher,
    batches: PictureBatches,
    parts: tuple[str, ...],
    args: argparse.Namespace,
    unfinished: Path,
    **options,
) -> Transplant:
    try:
        return transplant(
            student,
            teacher.model,
            batches,
            parts,
            steps=args.steps,
            lr=args.lr,
            norms_only=args.norms_only,
            amp=args.amp,
            seed=args.seed,
            state_file=unfinished,
            **options,
        )
    except TransplantError as error:
        unfinished.unlink(missing_ok=True)  # it would end so again
        raise cli.LaunchError(f'{error}; nothing was written') from error
    except ValueError as error:
        raise cli.LaunchError(str(error)) from error
    except KeyboardInterrupt:
        how = 'begin again'
        if unfinished.exists():
            how = '--resume goes on from the last measurement'
        raise cli.LaunchError(f'interrupted: {how}') from None


def _draw(done: Transplant, path: Path) -> None:
    from sn_mm.analysis.plots.errors import draw_errors

    figure = draw_errors(done.names, done.taught, done.held_out, done.best)
    with written_whole(path) as temporary:
        figure.savefig(temporary, dpi=150)


def _how_to_use(out: Path, parts: tuple[str, ...]) -> str:
    if parts == ('backbone',):
        return (
            "start from it: init_cfg=dict(type='Pretrained', checkpoint="
            f"'{out}') in model.backbone"
        )
    return f"start from it: load_from='{out}' in the config"


if __name__ == '__main__':
    sys.exit(main())
