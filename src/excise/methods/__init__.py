"""How to change a network: few mechanisms, each restricted by any mask."""

from excise.methods.ascend import Ascend
from excise.methods.base import Iterative, Method, OneShot
from excise.methods.contrast import Contrast
from excise.methods.dampen import Dampen
from excise.methods.finetune import Finetune
from excise.methods.function import FromFunction
from excise.methods.influence import Influence
from excise.methods.nothing import Nothing
from excise.methods.reset import Reset
from excise.methods.retrain import Retrain
from excise.methods.sequence import Sequence, WithHead
from excise.methods.sparsify import Sparsify

__all__ = [
    "Ascend",
    "Contrast",
    "Dampen",
    "Finetune",
    "FromFunction",
    "Influence",
    "Iterative",
    "Method",
    "Nothing",
    "OneShot",
    "Reset",
    "Retrain",
    "Sequence",
    "Sparsify",
    "WithHead",
]
