"""Soft adversarial training: certify the training set, attack only what is not verified.

The library of the reproducibility artifact for Sharma and Narayan, Soft Adversarial Training Can
Retain Natural Accuracy (2022). The command line is `softadv`.
"""

from softadv import loggers, methods
from softadv.attacks import PGD, Attack, load_attack, pgd
from softadv.certify import Certificates
from softadv.certify.certifiers import certify
from softadv.certify.radius import certified_radius
from softadv.data import Dataset, load_dataset, make_dataset
from softadv.errors import DivergedError, NotFiniteError, SoftadvError
from softadv.experiments.runner import run
from softadv.models import conv_small, count_neurons, load_model
from softadv.training.evaluate import Accuracy, Evaluation, certified_curve, evaluate
from softadv.training.history import History
from softadv.training.partition import Partition, partition
from softadv.training.train import Trained, train

__all__ = [
    "PGD",
    "Accuracy",
    "Attack",
    "Certificates",
    "Dataset",
    "DivergedError",
    "Evaluation",
    "History",
    "NotFiniteError",
    "Partition",
    "SoftadvError",
    "Trained",
    "certified_curve",
    "certified_radius",
    "certify",
    "conv_small",
    "count_neurons",
    "evaluate",
    "load_attack",
    "load_dataset",
    "load_model",
    "loggers",
    "make_dataset",
    "methods",
    "partition",
    "pgd",
    "run",
    "train",
]
