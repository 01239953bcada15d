"""Training methods, one per file: which images each attacks, with which attack, and the loss it minimises.

`register` adds one of your own. A spec or a call names a method by its registered name or as `package.module:Class`;
a call also takes the object.
"""

from softadv.training.method_names import parse_method
from softadv.training.methods.adversarial import Adversarial
from softadv.training.methods.base import EpochStart, Loss, Method, load_method, methods, register, settings_of
from softadv.training.methods.confident import Confident
from softadv.training.methods.fat import Fat
from softadv.training.methods.inverted import Inverted
from softadv.training.methods.natural import Natural
from softadv.training.methods.random import Random
from softadv.training.methods.soft import Soft
from softadv.training.methods.survivors import Survivors
from softadv.training.methods.trades import Trades

__all__ = [
    "Adversarial",
    "Confident",
    "EpochStart",
    "Fat",
    "Inverted",
    "Loss",
    "Method",
    "Natural",
    "Random",
    "Soft",
    "Survivors",
    "Trades",
    "load_method",
    "methods",
    "parse_method",
    "register",
    "settings_of",
]
