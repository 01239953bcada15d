"""Random ONNX graphs whose activations have any shape: what the specification of each operator allows."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from hypothesis import assume
from hypothesis import strategies as st

from tests.onnx.graphs import Graph

Shape = tuple[int, ...]
Draw = st.DrawFn


def _axis(draw: Draw, graph: Graph) -> tuple[int, int]:
    """A dimension but the batch's, counted from either end, and its size."""
    at = draw(st.integers(1, len(graph.now)))
    return (at if draw(st.booleans()) else at - len(graph.now) - 1), graph.now[at - 1]


def _made(graph: Graph, move: Callable[[np.ndarray], np.ndarray]) -> None:
    graph.now = move(np.zeros((1, *graph.now), bool)).shape[1:]


def _integers(graph: Graph, *values: int) -> str:
    return graph.constant(list(values), np.int64)


def _transpose(draw: Draw, graph: Graph) -> None:
    perm = [0, *(at + 1 for at in draw(st.permutations(range(len(graph.now)))))]
    graph.then("Transpose", perm=perm)
    _made(graph, lambda x: x.transpose(perm))


def _reshape(draw: Draw, graph: Graph) -> None:
    sizes = [size for size in graph.now if draw(st.booleans()) or size == 1]
    rest = int(np.prod(graph.now)) // int(np.prod(sizes))
    target = draw(st.permutations([*sizes, rest]))[:4]
    target = [*target[:-1], int(np.prod(graph.now)) // int(np.prod(target[:-1]))]
    given = [-1 if at == len(target) - 1 and draw(st.booleans()) else size for at, size in enumerate(target)]
    graph.then("Reshape", _integers(graph, 0, *given))
    graph.now = tuple(target)


def _slice(draw: Draw, graph: Graph) -> None:
    axis, size = _axis(draw, graph)
    ends = draw(st.tuples(st.integers(-size - 2, size + 2), st.integers(-size - 2, size + 2)))
    step = draw(st.sampled_from([1, 2, -1, -2]))
    if not range(*slice(*ends, step).indices(size)):
        ends = (-1, -(2**31)) if step < 0 else (0, 2**31 - 1)
    graph.then("Slice", *(_integers(graph, value) for value in (*ends, axis, step)))
    at = axis % (len(graph.now) + 1)
    kept = len(range(*slice(*ends, step).indices(size)))
    graph.now = (*graph.now[: at - 1], kept, *graph.now[at:])


def _gather(draw: Draw, graph: Graph) -> None:
    axis, size = _axis(draw, graph)
    shape = draw(st.sampled_from([(), (2,), (3,), (2, 2)] if len(graph.now) > 1 else [(2,), (3,), (2, 2)]))
    index = graph.rng.integers(-size, size, shape)
    graph.then("Gather", graph.constant(index, np.int64), axis=axis)
    _made(graph, lambda x: x.take(index, axis % (len(graph.now) + 1)))


def _split(draw: Draw, graph: Graph) -> None:
    axis, size = _axis(draw, graph)
    if size < 2:
        return
    cut = draw(st.integers(1, size - 1))
    parts = graph.node("Split", graph.value, _integers(graph, cut, size - cut), outputs=2, axis=axis)
    if draw(st.booleans()):
        (graph.value,) = graph.node("Concat", parts[1], parts[0], parts[1], axis=axis)
        _made(graph, lambda x: np.concatenate([x.take(range(cut, size), axis), x.take(range(cut), axis),
                                               x.take(range(cut, size), axis)], axis))  # fmt: skip
    else:
        graph.value = parts[0]
        _made(graph, lambda x: x.take(range(cut), axis))


def _concat(draw: Draw, graph: Graph) -> None:
    axis, _ = _axis(draw, graph)
    graph.batch = 1  # a constant is of one batch
    at = axis % (len(graph.now) + 1)
    beside = graph.normal(1, *graph.now[: at - 1], 2, *graph.now[at:])
    names = draw(st.permutations([graph.value, beside]))
    (graph.value,) = graph.node("Concat", *names, axis=axis)
    graph.now = (*graph.now[: at - 1], graph.now[at - 1] + 2, *graph.now[at:])


def _unsqueeze(draw: Draw, graph: Graph) -> None:
    if len(graph.now) > 3:
        return
    axis = draw(st.integers(1, len(graph.now) + 1))
    graph.then("Unsqueeze", _integers(graph, axis))
    graph.now = (*graph.now[: axis - 1], 1, *graph.now[axis - 1 :])


def _squeeze(draw: Draw, graph: Graph) -> None:
    ones = [at for at, size in enumerate(graph.now, 1) if size == 1]
    if ones and len(graph.now) > 1:
        axis = draw(st.sampled_from(ones))
        graph.then("Squeeze", _integers(graph, axis))
        graph.now = (*graph.now[: axis - 1], *graph.now[axis:])


def _pad(draw: Draw, graph: Graph) -> None:
    mode = draw(st.sampled_from(["constant", "reflect", "edge"]))
    most = 1 if mode == "reflect" else 2
    pads = [draw(st.integers(0, min(most, size - (mode == "reflect")))) for size in (*graph.now, *graph.now)]
    count = len(graph.now)
    value = [graph.constant(draw(st.sampled_from([0.0, 0.7])))] if mode == "constant" else []
    graph.then("Pad", _integers(graph, 0, *pads[:count], 0, *pads[count:]), *value, mode=mode)
    graph.now = tuple(n + a + b for n, a, b in zip(graph.now, pads[:count], pads[count:], strict=True))


def _mean(draw: Draw, graph: Graph) -> None:
    axes = sorted(draw(st.sets(st.integers(1, len(graph.now)), min_size=1)))
    keep = int(draw(st.booleans()) or len(axes) == len(graph.now))
    if draw(st.booleans()):
        graph.then("ReduceSum", _integers(graph, *axes), keepdims=keep)
    else:
        graph.then("ReduceMean", axes=axes, keepdims=keep)
    _made(graph, lambda x: x.mean(tuple(axes), keepdims=bool(keep)))


def _matmul(draw: Draw, graph: Graph) -> None:
    if draw(st.booleans()) and len(graph.now) > 1:
        (graph.value,) = graph.node("MatMul", graph.normal(2, graph.now[-2]), graph.value)
        graph.now = (*graph.now[:-2], 2, graph.now[-1])
    else:
        graph.then("MatMul", graph.normal(graph.now[-1], 3))
        graph.now = (*graph.now[:-1], 3)


def _arithmetic(draw: Draw, graph: Graph) -> None:
    """A constant that broadcasts in either direction."""
    own = [size if draw(st.booleans()) else 1 for size in graph.now]
    if draw(st.booleans()):
        own = [draw(st.integers(2, 3)) if size == 1 and n == 1 else n for size, n in zip(graph.now, own, strict=True)]
    operator = draw(st.sampled_from(["Add", "Sub", "Mul", "Div"]))
    constant = graph.constant(graph.rng.uniform(0.5, 1.5, own) * graph.rng.choice([-1, 1], own))
    flipped = operator != "Div" and draw(st.booleans())
    (graph.value,) = graph.node(operator, *((constant, graph.value) if flipped else (graph.value, constant)))
    graph.now = tuple(np.broadcast_shapes(graph.now, tuple(own)))


def _expand(draw: Draw, graph: Graph) -> None:
    sizes = [draw(st.integers(1, 3)) if size == 1 else draw(st.sampled_from([1, size])) for size in graph.now]
    graph.then("Expand", _integers(graph, 1, *sizes))
    graph.now = tuple(np.broadcast_shapes(graph.now, tuple(sizes)))


def _branches(draw: Draw, graph: Graph) -> None:
    before = graph.value
    _elementwise(draw, graph)
    operator = draw(st.sampled_from(["Add", "Sub", "Sum"]))
    more = [graph.normal(*graph.now[-1:])] if operator == "Sum" else []
    (graph.value,) = graph.node(operator, before, graph.value, *more)


def _elementwise(draw: Draw, graph: Graph) -> None:
    kind = draw(st.sampled_from(["Relu", "LeakyRelu", "Sigmoid", "Tanh", "Clip", "PRelu", "Neg"]))
    if kind == "Clip":
        graph.then("Clip", graph.constant(-0.4), *([graph.constant(0.6)] if draw(st.booleans()) else []))
    elif kind == "PRelu":
        graph.then("PRelu", graph.constant(graph.rng.uniform(0, 0.5, [n if draw(st.booleans()) else 1
                                                                     for n in graph.now])))  # fmt: skip
    else:
        graph.then(kind)


def _batch_norm(draw: Draw, graph: Graph) -> None:
    size = graph.now[0]
    if len(graph.now) <= 3:
        variance = graph.constant(graph.rng.uniform(0.3, 2, size))
        graph.then("BatchNormalization", graph.normal(size), graph.normal(size), graph.normal(size), variance,
                   epsilon=draw(st.sampled_from([1e-5, 1e-3])))  # fmt: skip


def _windows(draw: Draw, graph: Graph) -> None:
    """A convolution or a pooling of one or two dimensions, with padding that may differ from side to side."""
    count = len(graph.now) - 1
    if count not in (1, 2) or min(graph.now[1:]) < 3:
        return
    kind = draw(st.sampled_from(["Conv", "MaxPool", "AveragePool"]))
    kernel = [draw(st.integers(1, 3)) for _ in range(count)]
    strides = [draw(st.integers(1, 2)) for _ in range(count)]
    dilations = [draw(st.integers(1, 2)) if k < 3 else 1 for k in kernel]
    if kind == "AveragePool":
        dilations = [1] * count
    auto = draw(st.sampled_from(["NOTSET", "NOTSET", "SAME_UPPER", "SAME_LOWER", "VALID"]))
    if auto.startswith("SAME"):  # elsewhere onnxruntime pads in its own way, or not at all
        dilations = [1] * count
        strides = [min(pair) for pair in zip(strides, kernel, strict=True)]
    pads = [draw(st.integers(0, k - 1)) for k in (*kernel, *kernel)]
    options = {"strides": strides} | ({} if kind == "AveragePool" else {"dilations": dilations})
    options |= {"auto_pad": auto} if auto != "NOTSET" else {"pads": pads}
    if kind != "Conv":
        options["kernel_shape"] = kernel
        options["ceil_mode"] = draw(st.integers(0, 1)) if auto == "NOTSET" else 0
    if kind == "AveragePool":
        options["count_include_pad"] = draw(st.integers(0, 1)) if not options["ceil_mode"] else 0
    channels = graph.now[0]
    if kind == "Conv":
        channels = 2
        graph.then("Conv", graph.normal(2, graph.now[0], *kernel), graph.normal(2), **options)
    else:
        graph.then(kind, **options)
    found = []
    for at, n in enumerate(graph.now[1:]):
        reach = (kernel[at] - 1) * dilations[at] + 1
        if auto in ("SAME_UPPER", "SAME_LOWER"):
            found.append(-(-n // strides[at]))
            continue
        padded = n + (pads[at] + pads[at + count] if auto == "NOTSET" else 0)
        last = padded - reach
        size = -(-last // strides[at]) if options.get("ceil_mode") else last // strides[at]
        if options.get("ceil_mode") and size * strides[at] >= n + pads[at]:
            assume(False)  # refused, since onnxruntime does not read all of them either
        found.append(size + 1)
    graph.now = (channels, *found)


_STEPS = [
    _transpose, _reshape, _slice, _gather, _split, _concat, _unsqueeze, _squeeze, _pad, _mean, _matmul, _arithmetic,
    _branches, _expand, _elementwise, _batch_norm, _windows, _windows,
]  # fmt: skip


@st.composite
def any_graphs(draw: Draw) -> Graph:
    """A random network on small inputs of one to three dimensions, which ends in three scores."""
    shape = draw(st.sampled_from([(6,), (3, 4), (2, 5, 4), (4, 3, 3), (1, 6, 6), (3, 7)]))
    graph = Graph(shape, seed=draw(st.integers(0, 2**31 - 1)), batch=draw(st.sampled_from(["batch", 1])), opset=13)
    for _ in range(draw(st.integers(1, 6))):
        draw(st.sampled_from(_STEPS))(draw, graph)
        if np.prod(graph.now) > 600:
            break
    graph.then("Flatten")
    features = int(np.prod(graph.now))
    alpha, beta = draw(st.sampled_from([(1.0, 1.0), (0.5, 1.0), (1.3, 0.7)]))
    graph.then("Gemm", graph.normal(3, features), graph.normal(3), transB=1, alpha=alpha, beta=beta)
    return graph
