"""Settings, variables and devices by which a model may be evaluated in another arithmetic than the theorem's."""

import pytest
import torch
from torch import nn

from softadv.certify import certify
from softadv.certify.rounding import check_evaluation
from softadv.errors import SoftadvError

MODEL = nn.Sequential(nn.Flatten(), nn.Linear(4, 3))
CPU = torch.device("cpu")


def ask(model=MODEL, **options):
    dtype = next(model.parameters()).dtype
    return certify(model, torch.rand(2, 1, 2, 2, dtype=dtype), torch.tensor([0, 1]), eps=0.1, **options)


@pytest.mark.parametrize("value", ["BF16", "bf16", "F16", "TF32", "ANY", "something"])
@pytest.mark.parametrize("name", ["DNNL_DEFAULT_FPMATH_MODE", "ONEDNN_DEFAULT_FPMATH_MODE", "MKL_BLAS_COMPUTE_MODE"])
def test_a_variable_that_makes_products_coarse_is_named(monkeypatch, name, value):
    monkeypatch.setenv(name, value)
    with pytest.raises(SoftadvError, match=f"rounding: the environment has {name}={value}"):
        ask()
    assert ask(rounding="none").margin.isfinite().all()
    assert ask(nn.Sequential(nn.Flatten(), nn.Linear(4, 3)).double()).margin.isfinite().all()


@pytest.mark.parametrize("value", ["", "strict", "STRICT"])
def test_a_variable_that_says_what_holds_anyway_is_no_reason(monkeypatch, value):
    monkeypatch.setenv("ONEDNN_DEFAULT_FPMATH_MODE", value)
    assert ask().margin.isfinite().all()


@pytest.mark.parametrize("name", ["NVIDIA_TF32_OVERRIDE", "CUBLAS_EMULATE_SINGLE_PRECISION"])
def test_a_variable_for_gpus_is_asked_on_gpus_alone(monkeypatch, name):
    monkeypatch.setenv(name, "1")
    check_evaluation(torch.float32, CPU)
    with pytest.raises(SoftadvError, match=name):
        check_evaluation(torch.float32, torch.device("cuda"))


@pytest.mark.parametrize("kind", ["mps", "xpu", "meta", "privateuseone"])
def test_a_device_of_which_nothing_is_known_is_named(kind):
    with pytest.raises(SoftadvError, match=f"rounding: nothing is known of the arithmetic of {kind}"):
        check_evaluation(torch.float32, torch.device(kind))


@pytest.mark.parametrize("precision", ["bf16", "tf32"])
@pytest.mark.parametrize("of", ["all", "mkldnn", "mkldnn.matmul", "mkldnn.conv"])
def test_a_precision_is_seen_wherever_it_is_set(of, precision):
    backends = torch.backends
    owner = {
        "all": backends,
        "mkldnn": backends.mkldnn,
        "mkldnn.matmul": backends.mkldnn.matmul,
        "mkldnn.conv": backends.mkldnn.conv,
    }[of]
    before = owner.fp32_precision
    owner.fp32_precision = precision
    try:
        with pytest.raises(SoftadvError, match=f"fp32_precision is '{precision}'"):
            ask()
    finally:
        owner.fp32_precision = before
    assert ask().margin.isfinite().all()
