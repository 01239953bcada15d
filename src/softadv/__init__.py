"""Soft adversarial training: certify the training set, attack only what is not verified.

The library of the reproducibility artifact for Sharma and Narayan, Soft Adversarial Training Can
Retain Natural Accuracy (2022). The command line is `softadv`.
"""

from softadv.attacks.pgd import pgd
from softadv.certify import Certificates
from softadv.certify.certifiers import certify
from softadv.data import ImageData, load_dataset
from softadv.errors import SoftadvError
from softadv.models import conv_small, count_neurons
from softadv.training.partition import Partition, partition

__all__ = [
    "Certificates",
    "ImageData",
    "Partition",
    "SoftadvError",
    "certify",
    "conv_small",
    "count_neurons",
    "load_dataset",
    "partition",
    "pgd",
]
