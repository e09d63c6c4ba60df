"""The text tower beside an image encoder, and the space in which images and texts meet.

On disk it is two files and arrays. tokenizer.json is the tokenizer. text.json holds "model", the
fields of models/bert.py; "heads", the fields of an MLP for "image" and "text", or null; and
"max_tokens". The arrays are "text", the tower's parameters, "heads", by the same names, each with
"params" and "batch_stats", and "scale", a number: a checkpoint's item, or text.safetensors with the
path of each, joined by dots, for its key.
"""

import json
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int, Shaped

from cxr_jax import xla
from cxr_jax.data import tokenizer
from cxr_jax.io.text import plain
from cxr_jax.models._layers import MLP
from cxr_jax.models.bert import Bert, make_text_encoder
from cxr_jax.weights.arrays import read_arrays, read_facts
from cxr_jax.weights.convert import errors_naming, fill_variables, flat, own_key

FILE, FACTS = "text.safetensors", "text.json"
_LARGEST = 1_000_000  # number in text.json: vocabularies have 250,000 pieces
_BATCH = 64


class Text(NamedTuple):
    """A text tower.

    Attributes:
      model: the fields from which `models.bert.make_text_encoder` makes the module.
      params: its parameters, float32.
      heads: "image" and "text" -> (fields of an MLP, its variables); {}: features and the tower's
        vectors are in one space as they are.
      tokenizer: of the package tokenizers.
      max_tokens: the longest text that it reads, beginning and end included.
      scale: what cosines are multiplied by to become the logits of its training.
    """

    model: dict[str, Any]
    params: dict[str, Any]
    heads: dict[str, tuple[dict[str, Any], dict[str, Any]]]
    tokenizer: Any
    max_tokens: int
    scale: float

    def facts(self) -> dict[str, Any]:
        """Returns what text.json holds."""
        heads = {name: fields for name, (fields, _) in self.heads.items()}
        return {"model": self.model, "heads": heads or None, "max_tokens": self.max_tokens}

    def arrays(self) -> dict[str, Any]:
        """Returns all arrays by name, nested."""
        heads = {name: variables for name, (_, variables) in self.heads.items()}
        scale = np.float32(self.scale)
        return {"text": self.params, "scale": scale} | ({"heads": heads} if heads else {})

    def reads(self) -> list[np.ndarray]:
        """Returns words, facts and arrays, as fingerprints take them."""
        said = (self.tokenizer.to_str(), json.dumps(self.facts(), sort_keys=True))
        words = [np.frombuffer(one.encode(), np.uint8) for one in said]
        return [*words, *flat(self.arrays()).values()]


class TextEncoder:
    """Turns sentences, and an image encoder's features, into unit vectors of one space."""

    def __init__(self, text: Text):
        self.text = text
        model = make_text_encoder(text.model, FACTS)
        heads = {
            name: (MLP(**fields | {"hidden": tuple(fields["hidden"])}), variables)
            for name, (fields, variables) in text.heads.items()
        }

        def normalised(name: str, vectors: jax.Array, heads: Any) -> jax.Array:
            if name in heads:
                vectors = modules[name].apply(heads[name], vectors, train=False)
            norm = jnp.linalg.norm(vectors, axis=1, keepdims=True)
            return vectors / jnp.where(norm == 0, 1, norm)

        modules = {name: module for name, (module, _) in heads.items()}
        variables = jax.device_put((text.params, {n: own for n, (_, own) in heads.items()}))

        @partial(jax.jit, compiler_options=xla.options())
        def of_tokens(variables: Any, tokens: jax.Array, mask: jax.Array) -> jax.Array:
            vectors = model.apply({"params": variables[0]}, tokens, mask)
            return normalised("text", vectors, variables[1])

        @partial(jax.jit, compiler_options=xla.options())
        def of_features(variables: Any, features: jax.Array) -> jax.Array:
            return normalised("image", features, variables[1])

        self._of_tokens = partial(of_tokens, variables)
        self._of_features = partial(of_features, variables)

    def __call__(self, sentences: Sequence[str], cut: bool = False) -> Float[np.ndarray, "n d"]:
        """Returns a unit vector for each sentence.

        Raises ValueError for none, what is no text, and sentences longer than the tower reads,
        with their places, unless `cut`: then they end there.
        """
        sentences = [sentences] if isinstance(sentences, str) else list(sentences)
        if not sentences or not all(isinstance(one, str) and one.strip() for one in sentences):
            raise ValueError("pass one sentence or a list of them, none of them empty")
        if not cut:
            self.check(sentences)
        encoded = tokenizer.encode(self.text.tokenizer, sentences, self.text.max_tokens)
        rows = []
        for start in range(0, len(encoded), _BATCH):
            batch = encoded[start : start + _BATCH]
            size = _BATCH if start else min(_BATCH, 1 << (len(batch) - 1).bit_length())
            tokens = np.zeros((size, self.text.max_tokens), np.int32)
            mask = np.zeros(tokens.shape, bool)
            mask[:, 0] = True  # of the rows that fill the batch
            for row, numbers in enumerate(batch):
                tokens[row, : len(numbers)], mask[row, : len(numbers)] = numbers, True
            rows.append(np.asarray(self._of_tokens(tokens, mask))[: len(batch)])
        return np.concatenate(rows)

    def check(self, sentences: Sequence[str], name: str = "sentence") -> None:
        """Raises ValueError, by `name` and number (from 1), for one longer than the tower reads."""
        most = self.text.max_tokens
        for number, count in enumerate(self.lengths(sentences), start=1):
            if count > most:
                raise ValueError(
                    f"{name} {number} has {count} tokens, and the text tower reads {most}: "
                    "shorten it, or part it in two"
                )

    def lengths(self, sentences: Sequence[str]) -> Int[np.ndarray, " n"]:
        """Returns how many tokens each sentence has, beginning and end included."""
        return np.array(tokenizer.lengths(self.text.tokenizer, sentences), int)

    def images(self, features: Shaped[np.ndarray, "n d"]) -> Float[np.ndarray, "n e"]:
        """Returns a unit vector for each image, of its encoder's features."""
        return np.asarray(self._of_features(np.asarray(features, np.float32)))


def read_folder(folder: Path, width: int) -> Text:
    """Reads the tower of an exported folder; raises as `assemble`, and FileNotFoundError."""
    path = folder / FILE
    facts = read_facts(path, FACTS)
    return assemble(facts, read_arrays(path), folder / tokenizer.FILE, path, width)


def assemble(
    facts: Mapping[str, Any],
    arrays: Mapping[str, np.ndarray],
    words: Path,
    where: Path,
    width: int,
) -> Text:
    """Puts a tower together: what text.json holds, arrays by key, and the tokenizer's file.

    `width` is that of the image encoder's features. Raises ValueError, naming `where`, for facts
    that make no tower and arrays that do not fit them; as tokenizer.load for the tokenizer.
    """
    with errors_naming(where):
        model, heads, most = (facts.get(name) for name in ("model", "heads", "max_tokens"))
        heads = {} if heads is None else heads
        if isinstance(heads, dict):
            heads = {name: fields for name, fields in heads.items() if fields is not None}
        module, mlps = _modules(model, heads, most)
        expected = jax.eval_shape(partial(_shapes, module, mlps, width))
        filled = fill_variables(expected, arrays, own_key, "its text.json")
        tower = {name: (heads[name], variables) for name, variables in filled["heads"].items()}
    words = tokenizer.load(words)
    count = max(words.get_vocab().values(), default=-1) + 1
    if count > module.vocabulary:
        raise ValueError(f"{where}: {count} tokens in {tokenizer.FILE}, {module.vocabulary} in it")
    return Text(dict(model), filled["text"], tower, words, most, float(filled["scale"]))


def _modules(model: Any, heads: Any, most: Any) -> tuple[Bert, dict[str, MLP]]:
    """Returns the tower and the heads of facts that may be a stranger's. Raises ValueError."""
    said = (model, *(heads.values() if isinstance(heads, dict) else ()))
    if not all(isinstance(one, dict) for one in (heads, *said)) or type(most) is not int:
        raise ValueError(f"{FACTS} is missing or holds no model, heads and max_tokens")
    numbers = [n for n in jax.tree.leaves((said, most)) if isinstance(n, int | float)]
    if not all(0 <= n <= _LARGEST for n in numbers) or not heads.keys() <= {"image", "text"}:
        raise ValueError(f"{FACTS} holds an absurd number, or heads of another name")
    try:
        module = make_text_encoder(model, FACTS)
        mlps = {n: MLP(**own | {"hidden": tuple(own["hidden"])}) for n, own in heads.items()}
        jax.eval_shape(partial(_shapes, module, {}, 1))
    except (TypeError, LookupError, AttributeError, ArithmeticError) as error:
        raise ValueError(f"{FACTS}: no tower of ours ({plain(str(error))})") from error
    if not 3 <= most <= module.positions:
        raise ValueError(f"{FACTS}: max_tokens={most} of {module.positions} positions")
    return module, mlps


def _shapes(module: Bert, mlps: Mapping[str, MLP], width: int) -> dict[str, Any]:
    key, token = jax.random.key(0), jnp.zeros((1, 1), jnp.int32)
    vector, variables = module.init_with_output(key, token, token == 0)
    given = {"image": jnp.zeros((1, width)), "text": vector}
    heads = {n: dict(mlp.init(key, given[n], train=False)) for n, mlp in mlps.items()}
    return {"text": variables["params"], "heads": heads, "scale": jnp.zeros(())}
