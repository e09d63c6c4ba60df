"""What a compiled program does, read from its optimised HLO: bytes, products, collectives, by part.

A kernel is an instruction that runs: a fusion, a library call, a copy. It reads its operands from
memory and writes its results there once; what caches save is not seen, and arrays that the compiler
keeps in a TPU's own memory (layout S(1)) count nothing. Loops count as often as they run.
"""

import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import NamedTuple

_BYTES = {"pred": 1, "s8": 1, "u8": 1, "s16": 2, "u16": 2, "bf16": 2, "f16": 2, "s32": 4, "u32": 4}
_BYTES |= {"f32": 4, "s64": 8, "u64": 8, "f64": 8, "c64": 8, "s4": 1, "u4": 1}
_ARRAY = re.compile(rf"\b({'|'.join(_BYTES)}|f8\w+)\[([\d,]*)\](\{{[^}}]*\}})?")
_INSTRUCTION = re.compile(r"\s+(?:ROOT )?%?([\w.\-]+) = (.*)")
COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")
_NOTHING = {"parameter", "constant", "get-tuple-element", "tuple", "bitcast", "after-all"}
_NOTHING |= {"partition-id", "replica-id", "async-done", "async-update", "opt-barrier"}
# Operands (input, kernel, output) of cuDNN's convolutions; -1 is the result.
_CUDNN = {"Forward": (0, 1, -1), "BackwardFilter": (0, -1, 1), "BackwardInput": (-1, 1, 0)}


class _Instruction(NamedTuple):
    name: str
    type: str
    opcode: str
    operands: list[str]
    rest: str  # attributes, metadata, the backend's configuration


class Kernel(NamedTuple):
    """times: how often a step runs it; bytes and products are of one run.

    products: operations of matrix products and convolutions by their operands' type; an addition
    and a multiplication are two. found: convolutions ("convolution bf16"), sorts and scatters.
    moved: bytes that a collective gives, by type.
    """

    name: str
    kind: str
    op_name: str
    part: str
    times: int
    bytes: int
    products: dict[str, float]
    found: Counter[str]
    moved: dict[str, int]
    cycles: int  # by XLA's own estimate, on a TPU


def read(hlo: str) -> list[Kernel]:
    """Returns the kernels of a program's text, `compiled.as_text()`."""
    computations, entry = _parse(hlo)
    return list(_kernels(computations, entry, 1))


def collectives(kernels: list[Kernel]) -> dict[str, tuple[int, int]]:
    """Returns "all-reduce f32" -> (how many, bytes of their results on one device)."""
    found: dict[str, tuple[int, int]] = {}
    for kernel in kernels:
        for dtype, size in kernel.moved.items():
            count, total = found.get(f"{kernel.kind} {dtype}", (0, 0))
            found[f"{kernel.kind} {dtype}"] = (count + kernel.times, total + kernel.times * size)
    return found


def part_of(op_name: str) -> str:
    """Returns where in the step an operation was written, by the scopes that JAX keeps.

    "augmentation", "optimizer", a network by its class, forward or backward ("ResNet forward"),
    "loss and monitors" for the rest.
    """
    for scope, part in (("augment", "augmentation"), ("optimizer", "optimizer")):
        if re.search(rf"[/(]{scope}[/)]", op_name):
            return part
    network = re.search(r"[/(]([A-Z]\w+)", op_name)
    if not network:
        return "loss and monitors"
    return f"{network[1]} {'backward' if 'transpose(' in op_name else 'forward'}"


def _parse(hlo: str) -> tuple[dict[str, dict[str, _Instruction]], str]:
    computations: dict[str, dict[str, _Instruction]] = {}
    entry = current = ""
    for line in hlo.splitlines():
        if line.endswith("{") and not line.startswith((" ", "HloModule")):
            head = line.removeprefix("ENTRY ")
            current = re.match(r"%?([\w.\-]+)", head)[1]
            computations[current] = {}
            entry = current if head != line else entry
        elif current and (match := _INSTRUCTION.match(line)):
            made = _instruction(*match.groups())
            computations[current][made.name] = made
    return computations, entry


def _instruction(name: str, text: str) -> _Instruction:
    """`text`: TYPE OPCODE(OPERANDS), REST. Types of tuples and layouts have their own brackets."""
    end = _closing(text, 0) if text.startswith("(") else text.index(" ")
    opcode, _, _ = text[end:].strip().partition("(")
    start = text.index("(", end)
    close = _closing(text, start)
    operands = re.findall(r"%([\w.\-]+)", text[start:close])
    return _Instruction(name, text[:end], opcode, operands, text[close:])


def _closing(text: str, start: int) -> int:
    depth = 0
    for index in range(start, len(text)):
        depth += (text[index] == "(") - (text[index] == ")")
        if not depth:
            return index + 1
    return len(text)


def _arrays(types: str) -> Iterator[tuple[str, list[int], int]]:
    """Yields (type, dimensions, bytes in the device's main memory) of each array."""
    for dtype, dims, layout in _ARRAY.findall(types):
        shape = [int(n) for n in dims.split(",") if n]
        away = re.search(r"S\([1-9]\)", layout)
        yield dtype, shape, 0 if away else math.prod(shape) * _BYTES.get(dtype, 1)


def _size(types: str) -> int:
    return sum(size for _, _, size in _arrays(types))


def _called(rest: str) -> list[str]:
    return re.findall(r"(?:calls|to_apply|body)=%?([\w.\-]+)", rest)


def _kernels(
    computations: Mapping[str, dict[str, _Instruction]], name: str, times: int
) -> Iterator[Kernel]:
    body = computations[name]
    for it in body.values():
        kind = it.opcode.removesuffix("-start").removesuffix("-done")
        if it.opcode in ("while", "call", "async-start"):
            count = re.search(r'known_trip_count":\{"n":"(\d+)"', it.rest)
            for called in _called(it.rest):
                yield from _kernels(computations, called, times * int(count[1] if count else 1))
            continue
        # An asynchronous operation is two instructions; the second's type is the result's alone.
        if it.opcode in _NOTHING or it.opcode.endswith("-start"):
            continue
        products: Counter[str] = Counter()
        found: Counter[str] = Counter()
        _count(it, body, computations, products, found)
        moved: Counter[str] = Counter()
        if kind in COLLECTIVES:
            for dtype, shape, _ in _arrays(it.type):
                moved[dtype] += math.prod(shape) * _BYTES.get(dtype, 1)
        target = re.search(r'custom_call_target="([^"]+)"', it.rest)
        op_name = _op_name(it, computations)
        cycles = re.search(r'"estimated_cycles":"(\d+)"', it.rest)
        yield Kernel(
            it.name,
            target[1] if target else kind,
            op_name,
            part_of(op_name),
            times,
            _moved(it, body, computations),
            dict(products),
            found,
            dict(moved),
            int(cycles[1]) if cycles else 0,
        )


def _op_name(it: _Instruction, computations: Mapping[str, dict[str, _Instruction]]) -> str:
    """Returns an instruction's op_name, that of a fusion without one from what it holds."""
    own = re.findall(r'op_name="([^"]*)"', it.rest)
    if not own and it.opcode == "fusion":
        inside = (one.rest for name in _called(it.rest) for one in computations[name].values())
        own = re.findall(r'op_name="([^"]*)"', " ".join(inside))
    return max(own, key=len, default="")


def _moved(
    it: _Instruction,
    body: Mapping[str, _Instruction],
    computations: Mapping[str, dict[str, _Instruction]],
) -> int:
    """Returns the bytes that a kernel reads and writes."""
    if it.opcode.endswith("-done"):
        return 2 * _size(it.type)
    types = [body[name].type for name in it.operands if name in body]
    if it.opcode != "fusion" or not (called := _called(it.rest)):
        return _size(it.type) + sum(map(_size, types))
    inner = computations[called[0]]
    users: dict[str, list[_Instruction]] = {}
    for instruction in inner.values():
        for name in instruction.operands:
            users.setdefault(name, []).append(instruction)
    total = 0
    for instruction in inner.values():
        if instruction.opcode == "parameter":
            total += _read(instruction, users)
    written = _size(it.type)
    for instruction in inner.values():  # writes a part of an array in place
        if instruction.opcode == "dynamic-update-slice":
            written -= _size(instruction.type) - _size(inner[instruction.operands[1]].type)
    return total + max(written, 0)


def _read(it: _Instruction, users: Mapping[str, list[_Instruction]]) -> int:
    """Returns the bytes of a fusion's operand that are read: of some only slices are."""
    size = 0
    for user in users.get(it.name, ()):
        if user.opcode == "bitcast":
            size += _read(user, users)
        elif user.opcode in ("dynamic-slice", "slice", "gather"):
            size += _size(user.type)
        elif user.opcode != "dynamic-update-slice" or user.operands[0] != it.name:
            return _size(it.type)
    return min(size, _size(it.type))


def _count(
    it: _Instruction,
    body: Mapping[str, _Instruction],
    computations: Mapping[str, dict[str, _Instruction]],
    products: Counter[str],
    found: Counter[str],
) -> None:
    """Adds up the products of an instruction, and of those that it fuses, and what is `found`."""
    if it.opcode == "fusion":
        for name in _called(it.rest):
            for inner in computations[name].values():
                _count(inner, computations[name], computations, products, found)
        return
    types = [body[name].type if name in body else "" for name in it.operands]
    call = re.search(r'custom_call_target="([^"]+)"', it.rest)
    target = call[1] if call else ""
    if it.opcode in ("sort", "scatter", "select-and-scatter") or "Sort" in target:
        found["sort" if "Sort" in target else it.opcode] += 1
    cudnn = re.match(r"__cudnn\$conv(Forward|BackwardFilter|BackwardInput|BiasActivation)", target)
    if it.opcode == "convolution" or cudnn:
        roles = _CUDNN.get(cudnn[1], (0, 1, -1)) if cudnn else (0, 1, -1)
        dtype = _typed(types[0], it.rest)
        products[dtype] += _convolution([[*types, it.type][role] for role in roles], it.rest)
        if "dot_general" not in it.rest:  # a TPU's products are convolutions too
            found[f"convolution {dtype.partition(' ')[0]}"] += 1
    elif it.opcode == "dot" or target.startswith("__cublas$"):
        axes = re.search(r'lhs_contracting_dim(?:ension)?s"?[=:][{\[]([\d,"]*)', it.rest)
        shape = next(_arrays(types[0]))[1]
        depth = math.prod(shape[int(n)] for n in axes[1].replace('"', "").split(",") if n)
        products[_typed(types[0], it.rest)] += 2 * math.prod(next(_arrays(it.type))[1]) * depth
    elif target.startswith("__cudnn$fmha"):
        # Two products forward, five backward, which computes the first one again.
        _, (batch, length, heads, width), _ = next(_arrays(types[0]))
        keys = next(_arrays(types[1]))[1][1]
        factor = 10 if "Backward" in target else 4
        products["bf16"] += factor * batch * heads * length * keys * width


def _typed(operand: str, rest: str) -> str:
    dtype = next(_arrays(operand))[0]
    return f"{dtype} highest" if dtype == "f32" and "highest" in rest else dtype


def _convolution(types: list[str], rest: str) -> float:
    """Returns the operations of a convolution of (input, kernel, output); padding is none."""
    labels = re.search(r"dim_labels=(\w+)_(\w+)->(\w+)", rest)
    window = re.search(r"window=\{([^}]*)\}", rest)
    fields = dict(field.split("=") for field in window[1].split()) if window else {}
    groups = re.search(r"batch_group_count=(\d+)", rest)
    given, kernel, out = (next(_arrays(text))[1] for text in types)
    left, middle, right = labels.groups()
    total = 2.0 * out[right.index("b")] * out[right.index("f")] * kernel[middle.index("i")]
    for number in range(sum(label.isdigit() for label in left)):

        def of(field: str, default: str, number: int = number) -> str:
            return fields[field].split("x")[number] if field in fields else default

        axis = str(number)
        low = int(of("pad", "0_0").partition("_")[0])
        stride, dilated, spread = (
            int(of(field, "1")) for field in ("stride", "lhs_dilate", "rhs_dilate")
        )
        length = (given[left.index(axis)] - 1) * dilated + 1
        total *= sum(
            1
            for at in range(out[right.index(axis)])
            for tap in range(kernel[middle.index(axis)])
            if 0 <= (place := at * stride + tap * spread - low) < length and not place % dilated
        )
    return total / int(groups[1] if groups else 1)
