# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
import torch
from torch import nn

from sn_mm.teaching import Agreement, Transplant
from sn_mm.teaching.start import size_of, start_content

DONE = Transplant(
    before=[Agreement('backbone', 0.2, 1.5)],
    after=[Agreement('backbone', 0.9, 0.2)],
    steps=40,
    best=30,
)


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.backbone = nn.Conv2d(3, 2, 1)
        self.neck = nn.Conv2d(2, 2, 1)
        self.head = nn.Conv2d(2, 1, 1)


def test_keys_are_those_that_the_part_is_loaded_with():
    model = Model()
    keys = {}
    for parts in (
        ('backbone',),
        ('backbone', 'neck'),
        ('backbone', 'neck', 'heads'),
    ):
        content = start_content(model, parts, DONE, dict(teacher='bn.pth'))
        keys[len(parts)] = set(content['state_dict'])
    assert keys[1] == {'weight', 'bias'}
    assert keys[2] == {
        'backbone.weight',
        'backbone.bias',
        'neck.weight',
        'neck.bias',
    }
    assert keys[3] == set(model.state_dict())


def test_the_file_is_text_numbers_and_tensors(tmp_path):
    about = dict(teacher='bn.pth', pictures=12)
    meta = dict(classes=['a'])
    for parts, kept in (
        (('backbone',), False),
        (('backbone', 'neck', 'heads'), True),
    ):
        content = start_content(Model(), parts, DONE, about, meta)
        torch.save(content, tmp_path / 'start.pth')
        read = torch.load(tmp_path / 'start.pth', weights_only=True)
        noted = read['meta']['transplant']
        assert noted['teacher'] == 'bn.pth' and noted['pictures'] == 12
        assert noted['steps'] == 40 and noted['best_step'] == 30
        assert noted['after'] == [['backbone', 0.9, 0.2]]
        assert noted['versions']['torch'] == str(torch.__version__)
        assert ('dataset_meta' in read['meta']) is kept
    values = content['state_dict'].values()
    assert size_of(content) == 4 * sum(v.numel() for v in values)
