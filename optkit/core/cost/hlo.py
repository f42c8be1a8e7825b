"""Reads compiled XLA programs: how much a device computes, and what it sends to others.

JAX offers both only in part: `compiled.cost_analysis()` counts the body of a loop once and tells nothing about
collectives. This module therefore walks through the text of the optimized program, from its entry through fusions,
loops and branches.
"""

import collections
import dataclasses
import itertools
import math
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

# What a device sends for an operand of one byte in a group of g devices, by the algorithms that libraries use on rings.
SENT: Mapping[str, Callable[[int], float]] = {
    "all-reduce": lambda g: 2 * (g - 1) / g,
    "all-gather": lambda g: g - 1,
    "reduce-scatter": lambda g: (g - 1) / g,
    "all-to-all": lambda g: (g - 1) / g,
    "ragged-all-to-all": lambda g: (g - 1) / g,
    "collective-broadcast": lambda g: (g - 1) / g,
    "collective-permute": lambda _: 1,
}
_ELEMENTWISE = re.compile(
    "abs|add|atan2|cbrt|ceil|cosine|divide|erf|exponential(-minus-one)?|floor|log(-plus-one)?|logistic|maximum|minimum|"
    "multiply|negate|power|remainder|round-nearest-(afz|even)|rsqrt|sign|sine|sqrt|subtract|tanh?"
)
# Operations that hand on the values of their first operand; `convert` may round them.
_HAND_ON = re.compile("all-gather|bitcast|collective-permute|convert|copy|(dynamic-)?slice|reshape|transpose")


@dataclasses.dataclass
class Work:
    """The work of one device in one run of a program.

    Attributes:
        flops: Floating-point operations.
        sent: Bytes sent to other devices in every run, by kind of collective.
        sent_when_taken: Bytes sent under conditionals, each in the branch that sends most, by kind of collective.
        library_calls: How often each library routine is called whose work is not in `flops`.
        open_loops: How many loops have an unknown number of iterations. Their bodies count once.
    """

    flops: float = 0.0
    sent: dict[str, float] = dataclasses.field(default_factory=dict)
    sent_when_taken: dict[str, float] = dataclasses.field(default_factory=dict)
    library_calls: dict[str, float] = dataclasses.field(default_factory=dict)
    open_loops: int = 0

    def add(self, other: "Work", times: int = 1) -> None:
        """Adds the work of `other`, `times` times."""
        self.flops += times * other.flops
        self.open_loops += other.open_loops
        _add(self.sent, other.sent, times)
        _add(self.sent_when_taken, other.sent_when_taken, times)
        _add(self.library_calls, other.library_calls, times)


def _add(total: dict[str, float], amounts: Mapping[str, float], times: int = 1) -> None:
    for kind, amount in amounts.items():
        total[kind] = total.get(kind, 0) + times * amount


class _Instruction(NamedTuple):
    """One line of a program: `name = type opcode(operands), attributes`."""

    name: str
    type: str
    opcode: str
    operands: list[str]
    attributes: str
    is_root: bool


_Computation = dict[str, _Instruction]


def read(compiled: Any, lowered: Any) -> Work:
    """Counts the work of one device in one run.

    Args:
        compiled: The compiled program (`jax.stages.Compiled`).
        lowered: The program from which it was compiled (`jax.stages.Lowered`), for the dtypes that are sent.

    Returns:
        The work of one device.
    """
    return _Program(compiled.as_text(), _lowered_bits(lowered)).work()


def _lowered_bits(lowered: Any) -> Mapping[tuple[str, int], set[int]]:
    """Finds the widths that the lowered program sends, by kind of collective and number of elements."""
    found = collections.defaultdict(set)

    def visit(operation):
        kind = operation.name.removeprefix("stablehlo.").replace("_", "-")
        if kind in SENT:
            for operand in operation.operands:
                found[kind, math.prod(operand.type.shape)].add(_bits(str(operand.type.element_type)))
        for region in operation.regions:
            for block in region.blocks:
                for child in block.operations:
                    visit(child.operation)

    visit(lowered.compiler_ir("stablehlo").operation)
    return found


class _Program:
    """The text of an optimized program, as computations of instructions."""

    def __init__(self, text: str, lowered_bits: Mapping[tuple[str, int], set[int]]):
        self.lowered_bits = lowered_bits
        header, *lines = text.splitlines()
        self.devices = math.prod(int(n) for n in re.findall(r"\b(?:num_partitions|replica_count)=(\d+)", header))
        self.computations: dict[str, _Computation] = {}
        self.works: dict[str, Work] = {}
        self.entry = ""
        computation: _Computation = {}
        for line in lines:
            if start := re.match(r"(ENTRY )?%?([\w.\-]+) \(.*\{$", line):
                computation = self.computations[start[2]] = {}
                self.entry = start[2] if start[1] else self.entry
            elif part := re.match(r"\s+(ROOT )?%([\w.\-]+) = (.*?) ([a-z][\w\-]*)\(([^)]*)\)(.*)", line):
                root, name, shape, opcode, operands, attributes = part.groups()
                operands = re.findall(r"%([\w.\-]+)", operands)
                computation[name] = _Instruction(name, shape, opcode, operands, attributes, bool(root))

    def work(self) -> Work:
        """Counts the work of the whole program."""
        return self._computation_work(self.entry)

    def _computation_work(self, name: str) -> Work:
        if name not in self.works:
            total = self.works[name] = Work()
            computation = self.computations[name]
            for instruction in computation.values():
                self._count(instruction, computation, total)
        return self.works[name]

    def _count(self, instruction: _Instruction, computation: _Computation, total: Work) -> None:
        opcode = instruction.opcode
        kind = opcode.removesuffix("-start")
        if kind in SENT:
            if sent := self._sent(instruction, computation, kind):
                _add(total.sent, {kind: sent})
        elif opcode == "while":
            trips = re.search(r'"known_trip_count":\{"n":"(\d+)"', instruction.attributes)
            total.open_loops += trips is None
            for called in self._called(instruction, "body", "condition"):
                total.add(called, int(trips[1]) if trips else 1)
        elif opcode == "conditional":
            branches = self._called(instruction, "branch_computations", "true_computation", "false_computation")
            total.add(_most(list(branches)))
        elif opcode in ("fusion", "call", "async-start"):
            for called in self._called(instruction, "calls", "to_apply"):
                total.add(called)
        elif opcode == "custom-call":
            target = re.search(r'custom_call_target="([^"]*)"', instruction.attributes)
            if contracted := re.search(r'"lhs_contracting_dimensions":\[([\d",]*)\]', instruction.attributes):
                factor, axes = computation[instruction.operands[0]].type, re.findall(r"\d+", contracted[1])
                total.flops += _product_flops(_dimensions(instruction.type), _dimensions(factor), axes)
                return
            _add(total.library_calls, {target[1] if target else "unknown": 1})
        else:
            total.flops += _flops(instruction, computation)

    def _called(self, instruction: _Instruction, *attributes: str) -> Iterator[Work]:
        for attribute in attributes:
            names = re.search(rf"\b{attribute}=(\{{[^}}]*\}}|%?[\w.\-]+)", instruction.attributes)
            for name in re.findall(r"[\w.\-]+", names[1]) if names else ():
                yield self._computation_work(name)

    def _sent(self, instruction: _Instruction, computation: _Computation, kind: str) -> float:
        """Returns how many bytes a device sends for a collective."""
        if kind == "collective-permute":
            listed = re.search(r"source_target_pairs=\{([\d,{}]*)\}", instruction.attributes)
            if listed and all(source == target for source, target in re.findall(r"(\d+),(\d+)", listed[1])):
                return 0.0  # every device keeps its own
        size = sum(
            _elements(computation[operand].type) * self._sent_bits(instruction, computation, kind, operand) / 8
            for operand in instruction.operands
        )
        return SENT[kind](_group_size(instruction.attributes, self.devices)) * size

    def _sent_bits(self, instruction: _Instruction, computation: _Computation, kind: str, operand: str) -> int:
        """Returns the width of the sent elements in the program as it was written.

        Compilers for CPUs widen 16-bit elements, which other devices send as they are. If the lowered program sends as
        many elements in one width only, that is the width. It tells nothing about what the partitioner inserted, and if
        it sends as many elements in two widths, it does not tell which is which. In these cases elements count as wide
        as they were before they were widened.
        """
        own = _bits(computation[operand].type)
        # An all-to-all may be compiled into one operand for each device.
        elements = sum(_elements(computation[name].type) for name in instruction.operands if kind == "all-to-all")
        written = self.lowered_bits.get((kind, elements or _elements(computation[operand].type)), set())
        if len(written) == 1:
            return min(own, *written)
        return self._source_bits(operand, computation)

    def _source_bits(self, name: str, computation: _Computation) -> int:
        """Finds the narrowest type that some values have had since they were computed."""
        instruction = computation[name]
        own = _bits(instruction.type)
        if _HAND_ON.fullmatch(instruction.opcode):
            return min(own, self._source_bits(instruction.operands[0], computation))
        if instruction.opcode == "fusion" and (called := re.search(r"calls=%?([\w.\-]+)", instruction.attributes)):
            inside = self.computations[called[1]]
            root = next(inner.name for inner in inside.values() if inner.is_root)
            return min(own, self._source_bits(root, inside))
        return own


def _most(branches: list[Work]) -> Work:
    """Joins the branches of a conditional, of which one is taken, by the greatest of each amount."""

    def greatest(*amounts: Mapping[str, float]) -> dict[str, float]:
        return {kind: max(each.get(kind, 0) for each in amounts) for kind in dict.fromkeys(itertools.chain(*amounts))}

    sent = [dict(branch.sent) for branch in branches]
    for each, branch in zip(sent, branches, strict=True):
        _add(each, branch.sent_when_taken)
    return Work(
        flops=max(branch.flops for branch in branches),
        sent_when_taken=greatest(*sent),
        library_calls=greatest(*(branch.library_calls for branch in branches)),
        open_loops=max(branch.open_loops for branch in branches),
    )


def _flops(instruction: _Instruction, computation: _Computation) -> float:
    """Counts the floating-point operations of one instruction."""
    opcode, attributes = instruction.opcode, instruction.attributes
    if not re.match(r"\(?(f|bf|c)\d", instruction.type):
        return 0.0
    result = _elements(instruction.type)
    if _ELEMENTWISE.fullmatch(opcode):
        return result
    shapes = [_dimensions(computation[operand].type) for operand in instruction.operands]
    if opcode == "dot":
        contracted = re.search(r"lhs_contracting_dims=\{([\d,]*)\}", attributes)
        axes = re.findall(r"\d+", contracted[1]) if contracted else []
        return _product_flops(_dimensions(instruction.type), shapes[0], axes)
    if opcode == "convolution":
        labels = re.search(r"dim_labels=\w+_(\w+)->", attributes)
        features = shapes[1][labels[1].index("o")] if labels else 1
        return 2.0 * result * math.prod(shapes[1]) / max(features, 1)
    if opcode == "reduce":
        return math.prod(shapes[0]) - math.prod(_dimensions(instruction.type))
    if opcode == "reduce-window":
        window = re.search(r"window=\{size=([\dx]+)", attributes)
        return result * (math.prod(int(size) for size in window[1].split("x")) - 1) if window else 0.0
    return 0.0


def _product_flops(result: list[int], factor: list[int], contracted: list[str]) -> float:
    """Counts the operations of a matrix product whose first factor is contracted over some axes."""
    return 2.0 * math.prod(result) * math.prod(factor[int(axis)] for axis in contracted)


def _dimensions(shape: str) -> list[int]:
    """Returns the dimensions of an array, or of the first array of a tuple."""
    found = re.search(r"\[([\d,]*)\]", shape)
    return [int(size) for size in found[1].split(",")] if found and found[1] else []


def _elements(shape: str) -> int:
    """Counts the elements of an array, or of all arrays of a tuple."""
    arrays = re.findall(r"\w\[([\d,]*)\]", shape)
    return sum(math.prod(int(size) for size in sizes.split(",") if size) for sizes in arrays)


def _bits(element_type: str) -> int:
    """Returns the width of an element, for `bf16[8,4]` and `f8e4m3fn[8]`, or for `complex<f32>` and `i1` as in MLIR."""
    width = re.search(r"\d+", element_type.partition("[")[0])
    if width is None or element_type == "i1":
        return 8  # booleans take a byte
    return int(width[0]) * (2 if "complex" in element_type else 1)


def _group_size(attributes: str, devices: int) -> int:
    """Reads how many devices a collective joins, from any of the ways in which XLA writes groups."""
    groups = re.search(r"replica_groups=(.*)", attributes)
    text = groups[1] if groups else ""
    if mesh := re.match(r"mesh\[([^\]]*)\][^{]*\{([^}]*)\}", text):  # mesh['x'=4,'y'=2] {'x','y':(1)2}
        sizes = dict(re.findall(r"'([^']+)'=(\d+)", mesh[1]))
        axes = re.findall(r"'([^']+)'(?::\(\d+\)(\d+))?", mesh[2])
        return math.prod(int(part or sizes[axis]) for axis, part in axes) if axes else devices
    if iota := re.match(r"\[\d+,(\d+)\]<=", text):  # [2,4]<=[8], transposed or not
        return int(iota[1])
    if listed := re.match(r"\{(\{[\d,{}]*\})\}", text):  # {{0,1},{2,3}}
        return max(group.count(",") + 1 for group in re.findall(r"\{([\d,]+)\}", listed[1]))
    return devices  # {}
