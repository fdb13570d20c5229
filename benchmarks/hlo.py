"""What a compiled program consists of, read from XLA's scheduled text.

`Compiled.as_text()` names every operation that a device runs, in order. Counts here are of one pass
through a computation: a loop of known length counts as often as it runs, of a conditional the
dearest branch, and a fusion is one launch, whatever is in it.
"""

import dataclasses
import math
import re
from collections import Counter
from collections.abc import Mapping

COLLECTIVES = ("all-reduce", "all-gather", "all-to-all", "reduce-scatter", "collective-permute")
# What names, views or places values, and launches nothing.
_FREE = {
    "parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all", "partition-id",
    "replica-id", "opt-barrier", "copy-done", "async-done", "async-update", "slice-done",
    *(f"{name}-done" for name in COLLECTIVES),
}  # fmt: skip
_WRITES_IN_PLACE = "dynamic-update-slice"
_READS_A_PART = ("dynamic-slice", "slice", "gather")

_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{$")
_NAME = re.compile(r"^\s+(ROOT )?%?([\w.\-]+) = ")
_OPCODE = re.compile(r" ([a-z][\w\-]*)\(")
_CALLED = re.compile(r"(\w+)=%?([\w.\-]+)")
_BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}")
_TRIPS = re.compile(r'"?known_trip_count"?:\{"?n"?:"?(\d+)')
_CYCLES = re.compile(r'"estimated_cycles":"(\d+)"')
_TARGET = re.compile(r'custom_call_target="([^"]*)"')
_ARRAY = re.compile(r"\b(pred|[a-z]+(\d+)\w*)\[([\d,]*)\]")


@dataclasses.dataclass(frozen=True)
class Operation:
    """One line of a program.

    Attributes:
      size: bytes of its value.
      calls: other computations, by the role they have: body, condition, calls, to_apply, …; also
        an index or a direction of comparison.
      trips: how often a loop runs, as the compiler notes it; None where it notes nothing.
      value: of an integer constant.
      target: the library's function that it calls.
      cycles: that XLA thinks it takes, on a TPU.
    """

    name: str
    opcode: str
    size: int
    operands: tuple[str, ...]
    calls: Mapping[str, str]
    branches: tuple[str, ...]
    trips: int | None
    value: int | None
    target: str | None
    cycles: int


@dataclasses.dataclass(frozen=True)
class Loop:
    """A loop or conditional, by the names of those that it lies in, from the outside."""

    path: tuple[str, ...]
    kind: str
    trips: int | None


@dataclasses.dataclass
class Counts:
    """What one pass through a computation does; numbers of runs, not of lines.

    Attributes:
      kernels: fusions and other single launches.
      libraries: calls of libraries, by function.
      traffic: bytes that kernels read and write.
      control: loops and conditionals, each once.
      conditionals: how often one is decided.
    """

    kernels: int = 0
    libraries: Counter = dataclasses.field(default_factory=Counter)
    collectives: Counter = dataclasses.field(default_factory=Counter)
    cycles: int = 0
    traffic: int = 0
    control: list[Loop] = dataclasses.field(default_factory=list)
    conditionals: int = 0

    @property
    def unknown(self) -> int:
        """Loops whose length is not known; what is in them counts as if they ran once."""
        return sum(loop.kind == "while" and loop.trips is None for loop in self.control)

    def add(self, other: "Counts", times: int = 1) -> None:
        """Adds what `other` does, `times` over."""
        for name in ("kernels", "cycles", "traffic", "conditionals"):
            setattr(self, name, getattr(self, name) + times * getattr(other, name))
        for name in ("libraries", "collectives"):
            for key, value in getattr(other, name).items():
                getattr(self, name)[key] += times * value
        self.control += other.control


@dataclasses.dataclass(frozen=True)
class Program:
    """The computations of a compiled program by name."""

    computations: Mapping[str, tuple[Operation, ...]]
    entry: str

    def step(self) -> Counts:
        """One pass through the largest loop that the program itself runs; all, if it has none."""
        loops = [op for op in self.computations[self.entry] if op.opcode == "while"]
        bodies = [self.counts(op.calls["body"]) for op in loops]
        return max(bodies, key=lambda counts: counts.kernels, default=self.counts(self.entry))

    def counts(self, name: str, path: tuple[str, ...] = ()) -> Counts:
        """What one pass through a computation does."""
        found = Counts()
        sizes = {op.name: op.size for op in self.computations[name]}
        for op in self.computations[name]:
            inside = (*path, op.name)
            if op.opcode == "while":
                trips = self._trips(op)
                found.control.append(Loop(path, "while", trips))
                found.add(self.counts(op.calls["body"], inside), 1 if trips is None else trips)
            elif op.opcode == "conditional":
                found.control.append(Loop(path, "conditional", None))
                found.conditionals += 1
                branches = [self.counts(branch, inside) for branch in op.branches]
                found.add(max(branches, key=lambda each: (each.cycles, each.traffic)))
            elif op.opcode == "call":
                found.add(self.counts(op.calls["to_apply"], path))
            elif op.opcode not in _FREE and op.target != "AllocateBuffer":
                self._add_launch(found, op, sizes)
        return found

    def _trips(self, loop: Operation) -> int | None:
        """How often a loop runs; None where that is not known before it runs.

        A TPU's compiler notes nothing. There it is what a counter is compared with, if the body
        adds 1 to it: jax counts from 0.
        """
        if loop.trips is not None:
            return loop.trips
        condition, body = (
            {op.name: op for op in self.computations[loop.calls[name]]}
            for name in ("condition", "body")
        )
        test, result = (list(ops.values())[-1] for ops in (condition, body))
        if test.opcode != "compare" or test.calls.get("direction") != "LT":
            return None
        counter, end = (condition[name] for name in test.operands)
        if counter.opcode != "get-tuple-element" or end.value is None or result.opcode != "tuple":
            return None
        added = body[result.operands[int(counter.calls["index"])]]
        steps = [body[name].value for name in added.operands if name in body]
        return end.value if added.opcode == "add" and 1 in steps else None

    def _add_launch(self, found: Counts, op: Operation, sizes: Mapping[str, int]) -> None:
        found.cycles += op.cycles
        found.traffic += self._traffic(op, sizes)
        kind = op.opcode.removesuffix("-start")
        if kind in COLLECTIVES:
            found.collectives[kind] += 1
        elif op.opcode == "custom-call":
            found.libraries[op.target] += 1
        else:
            found.kernels += 1

    def _traffic(self, op: Operation, sizes: Mapping[str, int]) -> int:
        """Bytes read and written; of an array of which only a part is, that part."""
        operands = [sizes.get(name, 0) for name in op.operands]
        if op.opcode in _READS_A_PART:
            return 2 * op.size
        if op.opcode == _WRITES_IN_PLACE:
            return 2 * operands[1]
        if op.opcode != "fusion":
            return op.size + sum(operands)
        inner = self.computations[op.calls["calls"]]
        within = {each.name: each.size for each in inner}
        read, written = 0, op.size
        parameters = [each for each in inner if each.opcode == "parameter"]
        for parameter in parameters:
            users = [each for each in inner if parameter.name in each.operands]
            parts = [_part(user, parameter.name, within) for user in users]
            whole = any(part is None for part in parts)
            read += parameter.size if whole else sum(parts)
        for each in inner:
            if each.opcode == _WRITES_IN_PLACE and each.size <= written:
                written += within[each.operands[1]] - each.size
        return read + written


def _part(user: Operation, name: str, sizes: Mapping[str, int]) -> int | None:
    """Bytes of array `name` that an operation needs; None for all of it."""
    if user.opcode in _READS_A_PART and user.operands[0] == name:
        return user.size
    if user.opcode == _WRITES_IN_PLACE and user.operands[0] == name:
        return 0
    return None


def parse(text: str) -> Program:
    """A program from what `Compiled.as_text()` says."""
    computations: dict[str, tuple[Operation, ...]] = {}
    entry, name, lines = "", "", []
    for line in text.splitlines():
        if start := _COMPUTATION.match(line):
            name, lines = start[2], []
            entry = name if start[1] else entry
        elif line.startswith("}"):
            computations[name] = tuple(lines)
        elif name and _NAME.match(line):
            lines.append(_operation(line))
    return Program(computations, entry)


def _operation(line: str) -> Operation:
    name = _NAME.match(line)
    head = line[name.end() - 1 :]  # from the space before the value's shape
    shape_end = _closing(head, 1) if head[1] == "(" else 1
    opcode = _OPCODE.search(head, max(0, shape_end))
    arguments_end = _closing(head, opcode.end() - 1)
    arguments, rest = head[opcode.end() : arguments_end - 1], head[arguments_end:]
    branches = _BRANCHES.search(rest)
    named = dict(_CALLED.findall(rest.split("metadata=")[0]))
    chosen = re.findall(r"[\w.\-]+", branches[1].replace("%", "")) if branches else []
    chosen = chosen or [
        v for k, v in named.items() if k in ("true_computation", "false_computation")
    ]
    trips, cycles, target = (found.search(rest) for found in (_TRIPS, _CYCLES, _TARGET))
    return Operation(
        name=name[2],
        opcode=opcode[1],
        size=size_of(head[: opcode.start()]),
        operands=tuple(re.findall(r"%([\w.\-]+)", arguments)),
        calls=named,
        branches=tuple(chosen),
        trips=int(trips[1]) if trips else None,
        value=int(arguments) if opcode[1] == "constant" and arguments.isdecimal() else None,
        target=target[1] if target else None,
        cycles=int(cycles[1]) if cycles else 0,
    )


def _closing(text: str, start: int) -> int:
    """One after the bracket that closes the one at `start`."""
    depth = 0
    for place in range(start, len(text)):
        depth += {"(": 1, ")": -1}.get(text[place], 0)
        if depth == 0:
            return place + 1
    raise ValueError(f"brackets do not close: {text:.80}")


def size_of(shape: str) -> int:
    """Bytes of the arrays in a shape as XLA writes it."""
    total = 0
    for kind, bits, dimensions in _ARRAY.findall(shape):
        number = math.prod(int(n) for n in dimensions.split(",") if n)
        total += number * (1 if kind == "pred" else -(-int(bits) // 8))
    return total


def control_flow(stablehlo: str) -> Counter:
    """How many `while`, `case` and `if` a lowered program has, before any compiler has seen it."""
    return Counter(re.findall(r"stablehlo\.(while|case|if)\b", stablehlo))
