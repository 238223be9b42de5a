"""How to change a network: few mechanisms, each restricted by any mask."""

from excise.methods.ascend import Ascend
from excise.methods.base import Iterative, Method, OneShot
from excise.methods.finetune import Finetune
from excise.methods.function import FromFunction
from excise.methods.nothing import Nothing
from excise.methods.reset import Reset
from excise.methods.retrain import Retrain
from excise.methods.sequence import Sequence, WithHead

__all__ = [
    "Ascend",
    "Finetune",
    "FromFunction",
    "Iterative",
    "Method",
    "Nothing",
    "OneShot",
    "Reset",
    "Retrain",
    "Sequence",
    "WithHead",
]
