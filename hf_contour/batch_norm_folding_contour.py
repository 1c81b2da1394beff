"""Batch normalisation multiplied into the convolutions before it, for faster inference."""

import copy
from collections import Counter

from timm.layers import BatchNormAct2d, Conv2dSame
from torch import fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from .layers_contour import ConvNormAct, RepeatingConv2dSame, TimmPart

# Exactly these: a subclass may normalise its weights first, or do more than normalise.
FOLDED_CONVS = (nn.Conv2d, Conv2dSame, RepeatingConv2dSame)


FOLDED_NORMS = (nn.BatchNorm2d, BatchNormAct2d)


def fold_batch_norms(model: nn.Module) -> nn.Module:
    """A copy for inference whose batch normalisation is multiplied into the convolutions before it.

    The same function but for rounding, and faster. The copy cannot be trained or saved.

    Args:
        model: any. Folded is what is known to be equal: our own blocks, and in timm's and torchvision's networks a
            normalisation that alone follows a convolution in the graph that torch.fx traces; all else stays.
    """
    folded = copy.deepcopy(model).eval()
    for module in list(folded.modules()):
        if isinstance(module, ConvNormAct):
            _fold_pair(module, "0", "1")
        elif isinstance(module, TimmPart):
            for conv_name, norm_name in _foldable_pairs(module.network):
                _fold_pair(module.network, conv_name, norm_name)
    return folded


def _fold_pair(parent: nn.Module, conv_name: str, norm_name: str) -> None:
    norm = parent.get_submodule(norm_name)
    parent.set_submodule(conv_name, fuse_conv_bn_eval(parent.get_submodule(conv_name), norm))
    parent.set_submodule(norm_name, getattr(norm, "act", None) or nn.Identity())  # timm joins the activation


class _ConvNormTracer(fx.Tracer):
    """Leaves convolutions and normalisations whole, also those that timm has written."""

    def is_leaf_module(self, module: nn.Module, qualified_name: str) -> bool:
        """Whether the module is one step of the graph."""
        return isinstance(module, FOLDED_CONVS + FOLDED_NORMS) or super().is_leaf_module(module, qualified_name)


def _foldable_pairs(network: nn.Module) -> list[tuple[str, str]]:
    """Names of convolutions and of the normalisations that are all that reads them; none where fx cannot follow."""
    try:
        graph = _ConvNormTracer().trace(network)
    except Exception:  # control flow that depends on values: nothing is known then
        return []
    modules = dict(network.named_modules(remove_duplicate=False))
    calls = Counter(modules[node.target] for node in graph.nodes if node.op == "call_module")
    aliases = Counter(modules.values())
    pairs = []
    for node in graph.nodes:
        conv = node.args[0] if node.op == "call_module" and node.args else None
        if not isinstance(conv, fx.Node) or conv.op != "call_module" or list(conv.users) != [node]:
            continue
        first, norm = modules[conv.target], modules[node.target]
        is_known = type(first) in FOLDED_CONVS and type(norm) in FOLDED_NORMS and norm.running_mean is not None
        if is_known and all(calls[part] == aliases[part] == 1 for part in (first, norm)):
            pairs.append((conv.target, node.target))
    return pairs
