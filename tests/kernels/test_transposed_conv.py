"""The fast transposed convolution is PyTorch's."""

import pytest
import torch
import torch.nn.functional as F

from softadv.kernels.transposed_conv import TransposedConv, convolution, product


@pytest.mark.parametrize("channels", [1, 3, 7, 8, 16])
@pytest.mark.parametrize("stride", [(1, 1), (2, 2), (3, 3), (5, 5), (1, 2), (3, 2)])
@pytest.mark.parametrize("kernel", [(1, 1), (2, 2), (4, 4), (3, 5), (4, 1)])
@pytest.mark.parametrize("size", [(1, 1), (4, 4), (3, 5)])
def test_transposed_conv_is_that_of_pytorch(channels, stride, kernel, size):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 6, *size, generator=generator, dtype=torch.float64)
    weight = torch.randn(6, channels, *kernel, generator=generator, dtype=torch.float64)
    transposed = TransposedConv(weight, stride=stride)
    expected = F.conv_transpose2d(x, weight, stride=stride)
    torch.testing.assert_close(transposed(x), expected)
    torch.testing.assert_close(transposed(x.contiguous(memory_format=torch.channels_last)), expected)


@pytest.mark.parametrize("kernel", [(1, 1), (2, 3), (4, 1)])
def test_the_product_of_matrices_is_the_convolution(kernel):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 6, 4, 5, generator=generator, dtype=torch.float64)
    weight = torch.randn(3, 6, *kernel, generator=generator, dtype=torch.float64)
    for given in (x, x.contiguous(memory_format=torch.channels_last)):
        torch.testing.assert_close(product(given, weight), convolution(given, weight))
