# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
import hashlib
import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
import time

import pytest

from demo import data_folder
from demo.options import DemoOptions
from tests.paths import TOOLS

TOOL = TOOLS / 'make_demo_data.py'
SMALL = ['--train', '3', '--val', '1', '--size', '64', '80']


def load_main():
    spec = importlib.util.spec_from_file_location('make_demo_data', TOOL)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.main


main = load_main()


def digest(folder):
    """Hash of every file, by relative path."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(
            path.read_bytes()
        ).hexdigest()
        for path in folder.rglob('*')
        if path.is_file()
    }


@pytest.fixture()
def out(tmp_path):
    return tmp_path / 'digits'


def test_same_options_same_bytes(out, tmp_path, capsys):
    other = tmp_path / 'made/parents/too'
    assert main([str(out), *SMALL]) == main([str(other), *SMALL]) == 0
    assert digest(out) == digest(other)
    assert set(digest(out)) == data_folder.expected_files(
        DemoOptions(train=3, val=1, size=(64, 80))
    )
    assert f'{out}: made' in capsys.readouterr().out


def test_images_do_not_depend_on_their_number(out, tmp_path):
    more = tmp_path / 'more'
    main([str(out), *SMALL])
    main([str(more), *SMALL[2:], '--train', '4'])
    few, many = digest(out), digest(more)
    pictures = [name for name in few if name.endswith(('.png', '.jpg'))]
    assert len(pictures) == 4 * 5  # 4 scenes, each 1 + 4 picture files
    assert all(few[name] == many[name] for name in pictures)


def test_seed_changes_the_images(out, tmp_path):
    other = tmp_path / 'other'
    main([str(out), *SMALL])
    main([str(other), *SMALL, '--seed', '1'])
    changed, kept = digest(other), digest(out)
    assert changed.keys() == kept.keys()
    assert all(
        changed[name] != kept[name] for name in kept if name.endswith('.jpg')
    )


@pytest.mark.parametrize('only', ['coco', 'cityscapes'])
def test_only_one_data_set(out, only):
    assert main([str(out), *SMALL, '--only', only]) == 0
    assert {p.name for p in out.iterdir()} == {only, data_folder.MARKER}


def test_second_run_does_nothing(out, capsys, monkeypatch):
    main([str(out), *SMALL])
    before = digest(out)
    monkeypatch.setattr(data_folder, 'render_scene', None)  # not needed
    assert main([str(out), *SMALL]) == 0
    assert digest(out) == before
    assert 'up to date' in capsys.readouterr().out


def test_other_options_need_overwrite(out, capsys):
    main([str(out), *SMALL])
    before = digest(out)
    assert main([str(out), *SMALL, '--seed', '1']) == 1
    error = capsys.readouterr().err
    assert 'was made with {"seed": 0}; pass --overwrite' in error
    assert digest(out) == before
    assert main([str(out), *SMALL, '--seed', '1', '--overwrite']) == 0
    assert digest(out).keys() == before.keys()
    assert digest(out) != before
    assert os.listdir(out.parent) == [out.name]


def test_other_version_needs_overwrite(out, capsys, monkeypatch):
    main([str(out), *SMALL])
    monkeypatch.setattr(data_folder, 'VERSION', data_folder.VERSION + 1)
    assert main([str(out), *SMALL]) == 1
    assert 'another version' in capsys.readouterr().err
    assert main([str(out), *SMALL, '--overwrite']) == 0
    assert main([str(out), *SMALL]) == 0


def test_missing_files_need_overwrite(out, capsys):
    main([str(out), *SMALL])
    before = digest(out)
    lost = out / 'coco/annotations/instances_val2017.json'
    lost.unlink()
    assert main([str(out), *SMALL]) == 1
    assert f'{lost.relative_to(out)}; pass' in capsys.readouterr().err
    assert main([str(out), *SMALL, '--overwrite']) == 0
    assert digest(out) == before


def test_files_of_others_are_never_deleted(out, capsys):
    main([str(out), *SMALL])
    (out / 'notes.txt').write_text('mine')
    before = digest(out)
    assert main([str(out), *SMALL]) == 0  # nothing to do, nothing to lose
    assert main([str(out), '--seed', '1', '--overwrite']) == 1
    assert 'notes.txt; move them away' in capsys.readouterr().err
    assert digest(out) == before


@pytest.mark.parametrize('marker', [None, '', '{"version": 1}', '[]'])
def test_folder_made_by_others_is_refused(out, capsys, marker):
    out.mkdir()
    (out / 'thesis.tex').write_text('precious')
    if marker is not None:
        (out / data_folder.MARKER).write_text(marker)
    before = digest(out)
    assert main([str(out), *SMALL, '--overwrite']) == 1
    assert 'was not made by this tool' in capsys.readouterr().err
    assert digest(out) == before


def test_empty_folder_and_link_to_it_are_fine(out, tmp_path):
    out.mkdir()
    link = tmp_path / 'link'
    link.symlink_to(out)
    assert main([str(link), *SMALL]) == 0
    assert link.is_symlink() and (out / data_folder.MARKER).is_file()
    assert sorted(os.listdir(tmp_path)) == ['digits', 'link']


def test_file_is_refused(out, capsys):
    out.write_text('precious')
    assert main([str(out), *SMALL, '--overwrite']) == 1
    assert f'{out} is a file' in capsys.readouterr().err
    assert out.read_text() == 'precious'


def test_parent_that_cannot_be_written(tmp_path, capsys):
    parent = tmp_path / 'file'
    parent.write_text('precious')
    assert main([str(parent / 'digits'), *SMALL]) == 1
    assert f'cannot make a folder in {parent}' in capsys.readouterr().err


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (['--train', '0'], 'train must be 1 to'),
        (['--val', '-3'], 'val must be 1 to .* got -3'),
        (['--seed', '-1'], 'seed must not be negative, got -1'),
        (['--size', '63', '64'], 'size must be .* 64 to 2048'),
        (['--size', '64', '4096'], 'size must be .* 64 to 2048'),
        (['--size', '64', '512'], 'at most 4 times'),
    ],
)
def test_bad_options(out, capsys, arguments, message):
    assert main([str(out), *arguments]) == 1
    assert re.search(message, capsys.readouterr().err)
    assert not out.exists()


def test_unknown_format():
    with pytest.raises(ValueError, match="got \\('voc',\\)"):
        DemoOptions(formats=('voc',))


def test_interrupt_leaves_nothing(out, capsys, monkeypatch):
    render = data_folder.render_scene

    def interrupted(seed, split, index, size):
        if index == 2:
            raise KeyboardInterrupt
        return render(seed, split, index, size)

    monkeypatch.setattr(data_folder, 'render_scene', interrupted)
    assert main([str(out), *SMALL]) == 130
    assert 'nothing was written' in capsys.readouterr().err
    assert os.listdir(out.parent) == []


def test_failed_overwrite_keeps_the_old_data(out, capsys, monkeypatch):
    main([str(out), *SMALL])
    before = digest(out)

    def full_disk(*_):
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr(data_folder, 'render_scene', full_disk)
    assert main([str(out), *SMALL, '--seed', '1', '--overwrite']) == 1
    assert 'No space left' in capsys.readouterr().err
    assert digest(out) == before
    assert os.listdir(out.parent) == [out.name]


def test_folder_made_meanwhile_is_kept(out, monkeypatch):
    """Two runs at once: the second to finish finds the folder done."""
    write_files = data_folder._write_files

    def slow(folder, options):
        monkeypatch.setattr(data_folder, '_write_files', write_files)
        assert main([str(out.with_name('fast')), *SMALL]) == 0
        out.with_name('fast').rename(out)
        write_files(folder, options)

    monkeypatch.setattr(data_folder, '_write_files', slow)
    options = DemoOptions(train=3, val=1, size=(64, 80))
    assert not data_folder.make_demo_data(out, options)
    assert os.listdir(out.parent) == [out.name]


def test_termination_leaves_nothing(out):
    command = [sys.executable, str(TOOL), str(out), '--train', '9999']
    source = str(TOOL.parents[1])
    path = os.pathsep.join([source, *filter(None, sys.path)])
    process = subprocess.Popen(command, env={**os.environ, 'PYTHONPATH': path})
    try:
        deadline = time.monotonic() + 120
        while not any(out.parent.rglob('*.jpg')):
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.1)
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=60) == 143
    finally:
        process.kill()
    assert os.listdir(out.parent) == []


def test_marker_tells_the_options(out):
    main([str(out), *SMALL])
    marker = json.loads((out / data_folder.MARKER).read_text())
    assert marker['options']['size'] == [64, 80]
    assert marker['version'] == data_folder.VERSION
