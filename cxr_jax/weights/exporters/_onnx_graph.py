"""A graph of ONNX under construction."""

from typing import Any

import numpy as np


class Graph:
    """Nodes as (op, inputs, outputs) with their attributes, and constants by name."""

    def __init__(self) -> None:
        self.nodes: list[tuple[tuple[str, list[str], list[str]], dict[str, Any]]] = []
        self.constants: dict[str, np.ndarray] = {}

    def node(
        self, op: str, *inputs: Any, output: str = "", outputs: int = 1, **attributes: Any
    ) -> Any:
        """Adds a node; returns the name of its output, or those of several.

        Inputs are names; arrays and numbers become constants, integers int64 and others float32.
        """
        names = [value if isinstance(value, str) else self._constant(value) for value in inputs]
        made = [output or f"{op}_{len(self.nodes)}_{i}" for i in range(outputs)]
        self.nodes.append(((op, names, made), attributes))
        return made[0] if outputs == 1 else made

    def _constant(self, value: Any) -> str:
        array = np.asarray(value)
        dtype = np.int64 if np.issubdtype(array.dtype, np.integer) else np.float32
        name = f"constant_{len(self.constants)}"
        self.constants[name] = np.array(array, dtype, order="C")
        return name
