"""VNN-LIB properties, of versions 1.0 and 2.0: read into comparisons of linear sums, with exact numbers.

Version 1.0: Demarchi et al., Supporting Standardization of Neural Networks Verification with VNN-LIB and CoCoNet
(FoMLAS 2023); 2.0: Roy et al., VNN-LIB 2.0: Rigorous Foundations for Neural Network Verification (2026).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import product
from math import prod
from pathlib import Path
from typing import Any

from softadv.certify.expressions import nested
from softadv.errors import SoftadvError

# Types that verdicts are sound for: 2.0 asks for an error where a solver is not. "real" is any real input, and the
# network without rounding.
SOUND_TYPES = ("float32", "float64", "real")
VERSIONS = ("1.0", "2.0")

_MOST_BYTES = 2**26
_MOST_VARIABLES = 2**22
_MOST_CASES = 10_000
_MOST_COMPARISONS = 2**23  # of all cases together
_LONGEST_NUMBER = 1_000
_LARGEST = Fraction(10) ** 300
_MOST_BITS = 2**14  # of a denominator
_NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d{1,3})?")
_COMPARISONS = ("<=", "<", ">=", ">", "==", "=", "!=")


class PropertyError(SoftadvError):
    """A property that is malformed, or uses a part of VNN-LIB that is not supported."""


@dataclass(frozen=True, slots=True)
class Variable:
    """An input or an output of the network, by its place in the flattened tensor."""

    output: bool
    index: int


@dataclass(frozen=True, slots=True)
class Sum:
    """A constant plus variables times constants, exactly."""

    terms: dict[Variable, Fraction]
    constant: Fraction

    def plus(self, other: Sum, factor: Fraction) -> Sum:
        """This sum and a multiple of another."""
        terms = dict(self.terms)
        for variable, value in other.terms.items():
            terms[variable] = terms.get(variable, Fraction(0)) + factor * value
        return Sum({v: c for v, c in terms.items() if c}, self.constant + factor * other.constant)

    def at(self, inputs: Sequence[Any], outputs: Sequence[Any]) -> Fraction:
        """Its value, exactly, for floating-point inputs and outputs."""
        chosen = ((c, (outputs if v.output else inputs)[v.index]) for v, c in self.terms.items())
        return self.constant + sum((c * Fraction(float(value)) for c, value in chosen), Fraction(0))


@dataclass(frozen=True, slots=True)
class LinearConstraint:
    """sum <= 0, or < 0 where it is strict; sum != 0 where it differs."""

    sum: Sum
    strict: bool = False
    differs: bool = False

    def holds(self, inputs: Sequence[Any], outputs: Sequence[Any]) -> bool:
        """Whether an assignment satisfies it, in exact arithmetic."""
        value = self.sum.at(inputs, outputs)
        return value != 0 if self.differs else value < 0 or (value == 0 and not self.strict)


Case = tuple[LinearConstraint, ...]


@dataclass(frozen=True)
class Property:
    """A disjunction of cases, each a conjunction of comparisons; and the names and shapes of its variables.

    input, output: (name, shape); the shape is None in version 1.0, which counts variables from 0. type: of elements.
    network: its name in version 2.0, else None.
    """

    version: str
    type: str
    input: tuple[str, tuple[int, ...] | None]
    output: tuple[str, tuple[int, ...] | None]
    cases: tuple[Case, ...]
    sizes: tuple[int, int]
    network: str | None = None

    def name(self, variable: Variable) -> str:
        """A variable's name as the property writes it."""
        name, shape = self.output if variable.output else self.input
        if shape is None:
            return f"{name}_{variable.index}"
        places = []
        at = variable.index
        for size in reversed(shape):
            at, place = divmod(at, size)
            places.append(str(place))
        return f"{name}[{','.join(reversed(places))}]"


def read_property(path: Path) -> Property:
    """Read a property. Raises PropertyError, in one line that says what and where."""
    try:
        with path.open("rb") as file:  # which may be a pipe, or a device without an end
            data = file.read(_MOST_BYTES + 1)
    except (OSError, ValueError) as error:  # a ValueError: the name holds a zero byte
        raise PropertyError(f"{path}: cannot be read ({getattr(error, 'strerror', None) or error})") from error
    if len(data) > _MOST_BYTES:
        raise PropertyError(f"{path}: is larger than {_MOST_BYTES // 2**20} MiB")
    try:
        return _Reader().read(nested(data.decode("utf-8")))
    except UnicodeDecodeError as error:
        raise PropertyError(f"{path}: is no text in UTF-8") from error
    except SoftadvError as error:
        raise PropertyError(f"{path}: {error}") from error


@dataclass
class _Reader:
    version: str = "1.0"
    network: str | None = None
    type: str = "real"
    tensors: dict[str, tuple[bool, tuple[int, ...]]] = field(default_factory=dict)
    scalars: dict[str, Variable] = field(default_factory=dict)
    counts: dict[bool, int] = field(default_factory=lambda: {False: 0, True: 0})  # of scalar inputs and outputs
    common: list[LinearConstraint] = field(default_factory=list)  # to all cases
    cases: list[Case] = field(default_factory=lambda: [()])

    def read(self, expressions: list[Any]) -> Property:
        for expression in expressions:
            match expression:
                case ["vnnlib-version", str(version)]:
                    self.version = version.strip("<>")
                    if self.version not in VERSIONS:
                        raise PropertyError(f"is of version {_shown(self.version)}; {' and '.join(VERSIONS)} are read")
                case ["declare-network", str(name), *declarations]:
                    self._declare(name, declarations)
                case ["declare-const", str(name), "Real"]:
                    self._declare_scalar(name)
                case ["assert", formula]:
                    self._assert(formula)
                case _:
                    raise PropertyError(f"has {_shown(expression)}, which is not read")
        if not self.tensors and not self.scalars:
            raise PropertyError("declares no network")
        return self._property()

    def _property(self) -> Property:
        if sum(len(self.common) + len(case) for case in self.cases) > _MOST_COMPARISONS:
            raise PropertyError(f"has more than {_MOST_COMPARISONS:,} comparisons in its cases")
        cases = tuple((*self.common, *case) for case in self.cases)
        if self.network is None:
            sizes = self.counts[False], self.counts[True]
            return Property("1.0", "float32", ("X", None), ("Y", None), cases, sizes)
        sides = {output: (name, shape) for name, (output, shape) in self.tensors.items()}
        if set(sides) != {False, True} or len(self.tensors) != 2:
            raise PropertyError("declares another network than of one input and one output")
        sizes = prod(sides[False][1]), prod(sides[True][1])
        return Property("2.0", self.type, sides[False], sides[True], cases, sizes, self.network)

    def _declare(self, name: str, declarations: list[Any]) -> None:
        if self.network is not None:
            raise PropertyError("declares more than one network; one is read")
        self.network, types = name, set()
        for declaration in declarations:
            match declaration:
                case ["declare-input" | "declare-output" as kind, str(tensor), str(element), str(shape)]:
                    types.add(element.lower())
                    self.tensors[tensor] = kind == "declare-output", _indices(shape, tensor)
                    if prod(self.tensors[tensor][1]) > _MOST_VARIABLES or min(self.tensors[tensor][1], default=1) < 1:
                        raise PropertyError(f"declares {_shown(tensor)} of shape {_shown(shape)}")
                case _:
                    raise PropertyError(f"declares {_shown(declaration)}, which is not read")
        if len(types) != 1:
            raise PropertyError(f"declares several element types, {_shown(', '.join(sorted(types)))}")
        self.type = types.pop()
        if self.type not in SOUND_TYPES:
            raise PropertyError(
                f"declares elements of type {_shown(self.type)}, for which answers would not be sound; "
                f"{', '.join(SOUND_TYPES)} are answered"
            )

    def _declare_scalar(self, name: str) -> None:
        found = re.fullmatch(r"([XY])_(\d{1,8})", name)
        if found is None or name in self.scalars or self.network is not None:
            raise PropertyError(f"declares {_shown(name)}; X_0, X_1, … and Y_0, Y_1, … are read, each once")
        output = found[1] == "Y"
        if int(found[2]) != self.counts[output]:
            raise PropertyError(f"declares {name} out of its turn")
        self.counts[output] += 1
        self.scalars[name] = Variable(output, int(found[2]))

    def _assert(self, formula: Any) -> None:
        found = self._cases(formula)
        if len(found) == 1:
            self.common.extend(found[0])
        else:
            self.cases = _all_of([self.cases, found])

    def _cases(self, formula: Any) -> list[Case]:
        match formula:
            case ["and", *parts]:
                return _all_of([self._cases(part) for part in parts])
            case ["or", *parts]:
                either: list[Case] = []
                for part in parts:
                    either += self._cases(part)
                    _check_size(len(either), sum(map(len, either[-1:])))
                return either
            case [str(operator), left, right] if operator in _COMPARISONS:
                difference = self._sum(left).plus(self._sum(right), Fraction(-1))
                return [self._comparisons(operator, difference)]
        raise PropertyError(f"asserts {_shown(formula)}, which is not read")

    @staticmethod
    def _comparisons(operator: str, difference: Sum) -> Case:
        _check_numbers(difference)
        negative = Sum({}, Fraction(0)).plus(difference, Fraction(-1))
        match operator:
            case "<=" | "<":
                return (LinearConstraint(difference, strict=operator == "<"),)
            case ">=" | ">":
                return (LinearConstraint(negative, strict=operator == ">"),)
            case "!=":
                return (LinearConstraint(difference, differs=True),)
        return LinearConstraint(difference), LinearConstraint(negative)

    def _sum(self, expression: Any) -> Sum:
        match expression:
            case str():
                return self._atom(expression)
            case ["+", *parts] if parts:
                return self._total(parts, Fraction(1))
            case ["-", part]:
                return Sum({}, Fraction(0)).plus(self._sum(part), Fraction(-1))
            case ["-", first, *parts] if parts:
                return self._sum(first).plus(self._total(parts, Fraction(1)), Fraction(-1))
            case ["*", first, *parts] if parts:
                found = self._sum(first)
                for part in parts:
                    other = self._sum(part)
                    if found.terms and other.terms:
                        raise PropertyError(f"multiplies variables, in {_shown(expression)}; linear sums are read")
                    scaled, by = (found, other) if found.terms else (other, found)
                    found = Sum({}, Fraction(0)).plus(scaled, by.constant)
                    _check_numbers(found)
                return found
        raise PropertyError(f"has the value {_shown(expression)}, which is not read")

    def _total(self, parts: list[Any], factor: Fraction) -> Sum:
        terms: dict[Variable, Fraction] = {}
        constant = Fraction(0)
        for part in parts:
            found = self._sum(part)
            for variable, value in found.terms.items():
                terms[variable] = terms.get(variable, Fraction(0)) + factor * value
            constant += factor * found.constant
        return Sum({v: c for v, c in terms.items() if c}, constant)

    def _atom(self, token: str) -> Sum:
        if len(token) <= _LONGEST_NUMBER and _NUMBER.fullmatch(token):
            return Sum({}, Fraction(token))
        return Sum({self._variable(token): Fraction(1)}, Fraction(0))

    def _variable(self, token: str) -> Variable:
        if token in self.scalars:
            return self.scalars[token]
        name, bracket, _ = token.partition("[")
        if name not in self.tensors:
            raise PropertyError(f"names {_shown(token)}, which it does not declare")
        output, shape = self.tensors[name]
        places = _indices(token[len(name) :], token) if bracket else ()
        if len(places) != len(shape) or any(not 0 <= at < size for at, size in zip(places, shape, strict=True)):
            raise PropertyError(f"names {_shown(token)} of a tensor of shape {list(shape)}")
        index = 0
        for at, size in zip(places, shape, strict=True):
            index = index * size + at
        return Variable(output, index)


def _all_of(parts: list[list[Case]]) -> list[Case]:
    """The cases of a conjunction: one of each part."""
    _check_size(prod(map(len, parts)), sum(max(map(len, cases), default=0) for cases in parts))
    return [tuple(comparison for case in chosen for comparison in case) for chosen in product(*parts)]


def _check_size(cases: int, comparisons: int) -> None:
    """Raise PropertyError for more cases, of so many comparisons each, than are read."""
    if cases > _MOST_CASES or cases * comparisons > _MOST_COMPARISONS:
        raise PropertyError(f"has more than {_MOST_CASES:,} cases, or {_MOST_COMPARISONS:,} comparisons in them")


def _check_numbers(found: Sum) -> None:
    """Raise PropertyError for numbers that no double is near."""
    for number in (found.constant, *found.terms.values()):
        if abs(number) > _LARGEST or number.denominator.bit_length() > _MOST_BITS:
            raise PropertyError("multiplies numbers to one of too many digits, or has one beyond 10^300")


def _indices(text: str, where: str) -> tuple[int, ...]:
    inside = text.removeprefix("[").removesuffix("]").strip()
    parts = [part.strip() for part in inside.split(",")] if inside else []
    if not (text.startswith("[") and text.endswith("]")) or not all(re.fullmatch(r"\d{1,9}", part) for part in parts):
        raise PropertyError(f"has {_shown(where)} with {_shown(text)}, which are no whole numbers in brackets")
    return tuple(map(int, parts))


def _shown(expression: Any) -> str:
    text = str(expression)
    return text if len(text) <= 60 else f"{text[:60]}…"


def bounds_of(comparison: LinearConstraint) -> tuple[int, Fraction, bool] | None:
    """The input that a comparison bounds alone, the bound, and whether it is an upper one; None for any other."""
    ((variable, factor), *more) = (*comparison.sum.terms.items(), (None, Fraction(0)))
    if variable is None or len(more) != 1 or variable.output or comparison.differs:
        return None
    return variable.index, -comparison.sum.constant / factor, factor > 0


def without_bounds(case: Case) -> Case:
    """The comparisons of a case, without those that only bound one input."""
    return tuple(comparison for comparison in case if bounds_of(comparison) is None)
