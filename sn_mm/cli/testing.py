# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""Switches of a test run; where the toolboxes differ, each one's own way."""

from __future__ import annotations

import os.path as osp
from copy import deepcopy

from mmengine.config import Config, ConfigDict

from .launch_error import LaunchError

_DET_META = (
    'img_id',
    'img_path',
    'ori_shape',
    'img_shape',
    'scale_factor',
    'flip',
    'flip_direction',
)


def draw_predictions(
    cfg: Config,
    scope: str | None,
    show: bool = False,
    show_dir: str | None = None,
    wait_time: float = 2,
) -> str | None:
    """Draw what is predicted, on the screen or into files.

    mmdet's hook draws every picture, mmseg's those that the hook's
    ``interval`` picks.

    Args:
        cfg: changed in place.
        scope: 'mmdet' or 'mmseg'.
        show: open a window.
        show_dir: folder of the pictures, from the current folder on.
        wait_time: seconds that each picture is shown for.

    Returns:
        The folder that the pictures will be in, None if none are written.

    Raises:
        LaunchError: if the config has no visualization hook.
    """
    hook = (cfg.get('default_hooks') or {}).get('visualization')
    if not hook:
        raise LaunchError(
            '--show and --show-dir need the visualization hook; add '
            "visualization=dict(type='DetVisualizationHook') (mmseg: "
            "'SegVisualizationHook') to default_hooks of the config"
        )
    hook.draw = True
    if show:
        hook.show = True
        hook.wait_time = wait_time
    if show_dir is None:
        return None
    # mmdet would take a relative folder to be under the work folder
    folder = osp.abspath(show_dir)
    if scope == 'mmseg':
        cfg.visualizer.save_dir = folder
        return osp.join(folder, 'vis_data', 'vis_image')
    hook.test_out_dir = folder
    return folder


def enable_tta(cfg: Config, scope: str | None) -> None:
    """Test with augmentations, by the config's tta_model and tta_pipeline.

    As in the toolboxes: mmdet falls back to the picture and its mirror image,
    mmseg has no default.

    Raises:
        LaunchError: if the config says too little.
    """
    if scope == 'mmdet':
        cfg.setdefault('tta_model', _flip_tta_model())
        cfg.setdefault('tta_pipeline', _flip_tta_pipeline(cfg))
    missing = [k for k in ('tta_model', 'tta_pipeline') if k not in cfg]
    if missing:
        raise LaunchError(
            f'--tta needs {" and ".join(missing)} in the config; add '
            "_base_ = 'mmseg::_base_/default_runtime.py' for the model, and "
            'a pipeline with TestTimeAug'
        )
    cfg.model = ConfigDict(**cfg.tta_model, module=cfg.model)
    cfg.test_dataloader.dataset.pipeline = cfg.tta_pipeline


def _flip_tta_model() -> dict:
    nms = dict(type='nms', iou_threshold=0.5)
    # mmdet registers it in mmengine's root, so its name takes no scope
    return dict(type='DetTTAModel', tta_cfg=dict(nms=nms, max_per_img=100))


def _flip_tta_pipeline(cfg: Config) -> list:
    """The test pipeline on the picture and on its mirror image."""
    dataset = cfg.test_dataloader.dataset
    while 'dataset' in dataset:
        dataset = dataset.dataset
    # named with their package: pure Python configs have no default scope
    flips = [dict(type='mmdet.RandomFlip', prob=p) for p in (1.0, 0.0)]
    pack = [dict(type='mmdet.PackDetInputs', meta_keys=_DET_META)]
    augment = dict(type='TestTimeAug', transforms=[flips, pack])
    return [*deepcopy(dataset.pipeline[:-1]), augment]


def dump_predictions(cfg: Config, scope: str | None, out: str) -> None:
    """Write the predictions, for evaluation at another time.

    Args:
        cfg: changed in place.
        scope: 'mmdet' or 'mmseg'.
        out: mmdet: a pickle file; mmseg: a folder of label maps.

    Raises:
        LaunchError: if the file has another ending, or mmseg's config has
            more than one metric.
    """
    metrics = cfg.test_evaluator
    if scope == 'mmseg':
        if not isinstance(metrics, dict):
            raise LaunchError(
                '--out needs one test_evaluator, the config has '
                f'{len(metrics)}; set output_dir of one of them instead'
            )
        metrics.output_dir = out
        metrics.keep_results = True
        return
    if not out.endswith(('.pkl', '.pickle')):
        raise LaunchError(f'--out {out} must end in .pkl or .pickle')
    dump = dict(type='mmdet.DumpDetResults', out_file_path=out)
    metrics = [metrics] if isinstance(metrics, dict) else list(metrics)
    cfg.test_evaluator = [*metrics, dump]
