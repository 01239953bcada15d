"""Attacks, one per file: settings in the constructor, eps in the call.

An attack of your own is any callable (model, x, y, *, eps, generator) -> images, or a class whose objects are. Training
and evaluation refuse what leaves its ball, or the range of the pixels.
"""

from softadv.attacks.base import AtRadius, Attack, attacks, is_linf, load_attack, register, settings_taken, title_of
from softadv.attacks.divergence_pgd import DivergencePGD
from softadv.attacks.friendly_pgd import FriendlyPGD
from softadv.attacks.pgd import PGD, pgd
from softadv.attacks.torchattacks import AUTOATTACK, TorchAttack

__all__ = [
    "AUTOATTACK",
    "PGD",
    "AtRadius",
    "Attack",
    "DivergencePGD",
    "FriendlyPGD",
    "TorchAttack",
    "attacks",
    "is_linf",
    "load_attack",
    "pgd",
    "register",
    "settings_taken",
    "title_of",
]
