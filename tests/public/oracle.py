# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""The public networks in plain PyTorch, as the notes on the formats say.

Nothing of sn_mm or the toolboxes is used but RoIAlign: an independent oracle
for what a converted checkpoint has to compute. State dicts have exactly the
public keys and shapes.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class SwitchNorm(nn.Module):
    """(in, ln, bn) or (in, ln); unbiased instance variance."""

    def __init__(self, channels: int, using_bn: bool = True) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1, channels, 1, 1))
        self.bias = nn.Parameter(torch.zeros(1, channels, 1, 1))
        count = 3 if using_bn else 2
        self.mean_weight = nn.Parameter(torch.ones(count))
        self.var_weight = nn.Parameter(torch.ones(count))
        if using_bn:
            self.register_buffer('running_mean', torch.zeros(1, channels, 1))
            self.register_buffer('running_var', torch.zeros(1, channels, 1))
        self.using_bn = using_bn

    def ratios(self) -> tuple[Tensor, Tensor]:
        return self.mean_weight.softmax(0), self.var_weight.softmax(0)

    def forward(self, x: Tensor) -> Tensor:
        flat = x.double().flatten(2)
        mean_in = flat.mean(-1, keepdim=True)
        var_in = flat.var(-1, keepdim=True)
        second = var_in + mean_in**2
        mean_ln = mean_in.mean(1, keepdim=True)
        means = [mean_in, mean_ln]
        variances = [var_in, second.mean(1, keepdim=True) - mean_ln**2]
        if self.using_bn:
            if self.training:
                mean_bn = mean_in.mean(0, keepdim=True)
                var_bn = second.mean(0, keepdim=True) - mean_bn**2
            else:
                mean_bn, var_bn = self.running_mean, self.running_var
            means.append(mean_bn)
            variances.append(var_bn)
        mean_ratios, var_ratios = self.ratios()
        mean = sum(r * m for r, m in zip(mean_ratios, means))
        var = sum(r * v for r, v in zip(var_ratios, variances))
        y = ((flat - mean) / (var + 1e-5).sqrt()).view_as(x).to(x.dtype)
        return y * self.weight + self.bias


class FixedSparseNorm(SwitchNorm):
    """SSN after training: every layer's ratios are fixed and one-hot."""

    def __init__(self, channels: int, using_bn: bool = True) -> None:
        super().__init__(channels, using_bn)
        self.register_buffer('mean_fixed', torch.ones(1))
        self.register_buffer('var_fixed', torch.ones(1))
        self.register_buffer('radius', torch.ones(1))

    def ratios(self) -> tuple[Tensor, Tensor]:
        return self.mean_weight, self.var_weight


def conv3(a: int, b: int, stride: int = 1, dilation: int = 1) -> nn.Conv2d:
    return nn.Conv2d(a, b, 3, stride, dilation, dilation, bias=False)


class Bottleneck(nn.Module):
    def __init__(self, into, width, stride, dilation, norm, shortcut):
        super().__init__()
        self.conv1 = nn.Conv2d(into, width, 1, bias=False)
        self.sn1 = norm(width)
        self.conv2 = conv3(width, width, stride, dilation)
        self.sn2 = norm(width)
        self.conv3 = nn.Conv2d(width, 4 * width, 1, bias=False)
        self.sn3 = norm(4 * width)
        if shortcut:
            self.downsample = nn.Sequential(
                nn.Conv2d(into, 4 * width, 1, stride, bias=False),
                norm(4 * width),
            )

    def forward(self, x: Tensor) -> Tensor:
        y = self.sn1(self.conv1(x)).relu()
        y = self.sn3(self.conv3(self.sn2(self.conv2(y)).relu()))
        return (
            y + (self.downsample(x) if hasattr(self, 'downsample') else x)
        ).relu()


class Basic(nn.Module):
    def __init__(self, into, width, stride, dilation, norm, shortcut):
        super().__init__()
        self.conv1 = conv3(into, width, stride)
        self.sn1 = norm(width)
        self.conv2 = conv3(width, width)
        self.sn2 = norm(width)
        if shortcut:
            self.downsample = nn.Sequential(
                nn.Conv2d(into, width, 1, stride, bias=False), norm(width)
            )

    def forward(self, x: Tensor) -> Tensor:
        y = self.sn2(self.conv2(self.sn1(self.conv1(x)).relu()))
        return (
            y + (self.downsample(x) if hasattr(self, 'downsample') else x)
        ).relu()


def stage(number, blocks, norm, kind=Bottleneck, stride=None, dilations=None):
    """Stage 1 to 4 of a ResNet."""
    width, growth = 64 * 2 ** (number - 1), 4 if kind is Bottleneck else 1
    into = 64 if number == 1 else width // 2 * growth
    stride = stride or (1 if number == 1 else 2)
    dilations = dilations or [1] * blocks
    made = []
    for i in range(blocks):
        shortcut = i == 0 and (
            stride > 1 or into != width * growth or dilations[-1] > 1
        )
        made.append(
            kind(
                into,
                width,
                stride if i == 0 else 1,
                dilations[i],
                norm,
                shortcut,
            )
        )
        into = width * growth
    return nn.Sequential(*made)


BLOCKS = {
    18: (2, 2, 2, 2),
    34: (3, 4, 6, 3),
    50: (3, 4, 6, 3),
    101: (3, 4, 23, 3),
    152: (3, 8, 36, 3),
}


class ResNet(nn.Module):
    """ImageNet's, SSN's, or, dilated and without fc, the encoder."""

    def __init__(
        self,
        depth=50,
        norm=SwitchNorm,
        fc=True,
        ceil_pool=False,
        dilated=False,
    ):
        super().__init__()
        kind = Bottleneck if depth > 34 else Basic
        self.conv1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False)
        self.sn1 = norm(64)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        if ceil_pool:
            self.maxpool = nn.MaxPool2d(3, 2, 0, ceil_mode=True)
        for i, blocks in enumerate(BLOCKS[depth], 1):
            stride = dilations = None
            if dilated and i > 2:
                rate = 2 ** (i - 2)
                stride, dilations = 1, [rate // 2] + [rate] * (blocks - 1)
            setattr(
                self,
                f'layer{i}',
                stage(i, blocks, norm, kind, stride, dilations),
            )
        if fc:
            self.fc = nn.Linear(2048 if depth > 34 else 512, 1000)

    def features(self, x: Tensor) -> list[Tensor]:
        x = self.maxpool(self.sn1(self.conv1(x)).relu())
        out = []
        for i in range(1, 5):
            x = getattr(self, f'layer{i}')(x)
            out.append(x)
        return out

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.features(x)[-1].mean((2, 3)))


# -- detection --
class Body(nn.Module):
    """res1 to res5 (or res4) under their public names."""

    def __init__(self, norm, stages=4):
        super().__init__()
        self.res1 = nn.Module()
        self.res1.conv1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False)
        self.res1.sn1 = norm(64)
        self.count = stages
        for i in range(1, stages + 1):
            setattr(self, f'res{i + 1}', stage(i, BLOCKS[50][i - 1], norm))

    def features(self, x: Tensor) -> list[Tensor]:
        x = self.res1.sn1(self.res1.conv1(x)).relu()
        x = F.max_pool2d(x, 3, 2, 1)
        out = []
        for i in range(1, self.count + 1):
            x = getattr(self, f'res{i + 1}')(x)
            out.append(x)
        return out


class FPN(nn.Module):
    def __init__(self, norm, dim=256):
        super().__init__()

        def pair(into, size):
            return nn.Sequential(
                nn.Conv2d(into, dim, size, padding=size // 2, bias=False),
                norm(dim),
            )

        self.conv_top = pair(2048, 1)
        self.topdown_lateral_modules = nn.ModuleList()
        for into in (1024, 512, 256):
            module = nn.Module()
            module.conv_lateral = pair(into, 1)
            self.topdown_lateral_modules.append(module)
        self.posthoc_modules = nn.ModuleList(pair(dim, 3) for _ in range(4))
        self.conv_body = Body(norm)

    def forward(self, x: Tensor) -> list[Tensor]:
        """P2 to P6."""
        c2, c3, c4, c5 = self.conv_body.features(x)
        inner = [self.conv_top(c5)]
        for module, c in zip(self.topdown_lateral_modules, (c4, c3, c2)):
            up = F.interpolate(inner[-1], scale_factor=2, mode='nearest')
            inner.append(module.conv_lateral(c) + up)
        p5, p4, p3, p2 = (m(i) for m, i in zip(self.posthoc_modules, inner))
        return [p2, p3, p4, p5, p5[:, :, ::2, ::2]]


class RPN(nn.Module):
    def __init__(self, name, dim, anchors):
        super().__init__()
        self.name = name
        setattr(self, f'{name}_conv', nn.Conv2d(dim, dim, 3, padding=1))
        setattr(self, f'{name}_cls_score', nn.Conv2d(dim, anchors, 1))
        setattr(self, f'{name}_bbox_pred', nn.Conv2d(dim, anchors * 4, 1))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y = getattr(self, f'{self.name}_conv')(x).relu()
        return (
            getattr(self, f'{self.name}_cls_score')(y),
            getattr(self, f'{self.name}_bbox_pred')(y),
        )


class TwoFC(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.fc1 = nn.Linear(dim * 49, 1024)
        self.fc2 = nn.Linear(1024, 1024)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.fc1(x.flatten(1)).relu()).relu()


def conv_triples(dim: int, norm) -> nn.Sequential:
    layers = []
    for _ in range(4):
        layers += [conv3(dim, dim), norm(dim), nn.ReLU()]
    return nn.Sequential(*layers)


class FourConvOneFC(nn.Module):
    def __init__(self, dim, norm):
        super().__init__()
        self.convs = conv_triples(dim, norm)
        self.fc = nn.Linear(dim * 49, 1024)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.convs(x).flatten(1)).relu()


class Res5(nn.Module):
    def __init__(self, norm):
        super().__init__()
        self.res5 = stage(4, 3, norm)

    def forward(self, x: Tensor) -> Tensor:
        return self.res5(x).mean((2, 3))


class Outputs(nn.Module):
    def __init__(self, width, classes=81):
        super().__init__()
        self.cls_score = nn.Linear(width, classes)
        self.bbox_pred = nn.Linear(width, 4 * classes)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.cls_score(x), self.bbox_pred(x)


class MaskHead(nn.Module):
    def __init__(self, dim, norm):
        super().__init__()
        self.conv_fcn = conv_triples(dim, norm)
        self.upconv = nn.ConvTranspose2d(dim, dim, 2, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.upconv(self.conv_fcn(x)).relu()


class MaskOutputs(nn.Module):
    def __init__(self, dim, classes=81):
        super().__init__()
        self.classify = nn.Conv2d(dim, classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.classify(x)


class Detector(nn.Module):
    """Faster or Mask R-CNN, FPN or C4."""

    def __init__(self, norm, fpn=True, mask=False):
        super().__init__()
        dim = 256 if fpn else 1024
        self.Conv_Body = FPN(norm) if fpn else Body(norm, 3)
        self.RPN = RPN('FPN_RPN' if fpn else 'RPN', dim, 3 if fpn else 15)
        if fpn:
            self.Box_Head = FourConvOneFC(dim, norm) if mask else TwoFC(dim)
        else:
            self.Box_Head = Res5(norm)
        self.Box_Outs = Outputs(1024 if fpn else 2048)
        if mask:
            self.Mask_Head = MaskHead(dim, norm)
            self.Mask_Outs = MaskOutputs(dim)
        self.fpn = fpn

    def features(self, x: Tensor) -> list[Tensor]:
        if self.fpn:
            return self.Conv_Body(x)
        return self.Conv_Body.features(x)[-1:]


class Converted(nn.Module):
    """An ImageNet backbone as the public converter writes it."""

    def __init__(self, norm, fpn=True):
        super().__init__()
        self.Conv_Body = nn.Module()
        body = Body(norm)
        body.classifier = nn.Linear(2048, 1000)
        if fpn:
            self.Conv_Body.conv_body = body
        else:
            self.Conv_Body = body
        self.features = body.features


# -- segmentation --
class Decoder(nn.Module):
    def __init__(self, norm, classes=150):
        super().__init__()
        self.cbr = nn.Sequential(conv3(2048, 512), norm(512))
        self.cbr_deepsup = nn.Sequential(conv3(1024, 512), norm(512))
        self.conv_last = nn.Conv2d(512, classes, 1)
        self.conv_last_deepsup = nn.Conv2d(512, classes, 1)

    def forward(self, features: list[Tensor]) -> tuple[Tensor, Tensor]:
        return (
            self.conv_last(self.cbr(features[3]).relu()),
            self.conv_last_deepsup(self.cbr_deepsup(features[2]).relu()),
        )


# -- weights --
def fill(model: nn.Module, seed: int = 0) -> nn.Module:
    """Random weights that keep activations at a sensible scale; eval mode."""
    gen = torch.Generator().manual_seed(seed)

    def normal(t, scale, mean=0.0):
        t.copy_(torch.randn(t.shape, generator=gen) * scale + mean)

    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, SwitchNorm):
                normal(module.weight, 0.2, 1.0)
                normal(module.bias, 0.1)
                for name in ('mean_weight', 'var_weight'):
                    logits = getattr(module, name)
                    if isinstance(module, FixedSparseNorm):
                        logits.zero_()
                        chosen = torch.randint(
                            len(logits), (1,), generator=gen
                        )
                        logits[chosen] = 1.0
                    else:
                        normal(logits, 1.0)
                if module.using_bn:
                    normal(module.running_mean, 0.2)
                    module.running_var.copy_(
                        torch.rand(module.running_var.shape, generator=gen)
                        + 0.5
                    )
            elif isinstance(
                module, (nn.Conv2d, nn.Linear, nn.ConvTranspose2d)
            ):
                fan = module.weight[0].numel()
                normal(module.weight, (2 / fan) ** 0.5)
                if module.bias is not None:
                    normal(module.bias, 0.1)
    return model.eval()
