"""Thousands of damaged files through the real readers, in processes that may die of one.

    python -m tests.faults.fuzz --count=10000             # all kinds, as docs/reliability.md has it
    python -m tests.faults.fuzz --kind=DICOM --only=4711  # one input again, in this process

Input number i of a kind is made from (seed, kind, i) alone. A process that reads may take
MEMORY_BYTES beyond what it has after its imports, and SECONDS of its own time for a file; one that
dies or does not come back is replaced, and the input that it had counts as lost.
"""

import argparse
import collections
import contextlib
import functools
import importlib
import multiprocessing
import queue
import random
import resource
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Iterable, Iterator, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import NamedTuple

from tests.faults import limited, readers
from tests.faults.readers import Kind

MEMORY_BYTES = 1 << 30
SECONDS = 20.0
# Of waiting for a process that others keep from running; SECONDS is of its own time.
PATIENCE = 120.0
LOST = ("wrong error", "wrong result", "crash", "hang", "memory")
_CHUNK = 100


class Outcome(NamedTuple):
    """Outcome of one input.

    Attributes:
      what: "read", "listed", "refused", or one of LOST.
      detail: the error, where there was one.
      seconds: of the process's own time.
      memory: bytes by which the process grew at most while it read.
    """

    kind: str
    index: int
    what: str
    detail: str = ""
    seconds: float = 0.0
    memory: int = 0


def read(name: str, kind: Kind, index: int, seed: int, folder: Path) -> Outcome:
    """Makes input number `index` and reads it here; nothing is raised."""
    sound = _sound(kind)
    rng = random.Random(f"{seed} {name} {index}")
    data = kind.damage(rng, sound[index % len(sound)], sound)
    before, start = limited.restart_memory(), time.process_time()
    try:
        what, detail = kind.read(folder, data, index), ""
    except MemoryError:
        what, detail = "memory", traceback.format_exc(limit=-3)
    except readers.Broken as error:
        what, detail = "wrong result", str(error)
    except (ValueError, FileNotFoundError) as error:
        what, detail = _judge(error)
    except BaseException:
        what, detail = "wrong error", traceback.format_exc(limit=-6)
    seconds = time.process_time() - start
    if what not in LOST and seconds > SECONDS:
        what = "hang"
    return Outcome(name, index, what, detail, seconds, limited.peak_memory() - before)


@functools.cache
def _sound(kind: Kind) -> Sequence[bytes]:
    return kind.seeds()


def _judge(error: Exception) -> tuple[str, str]:
    """Checks that a refusal is ours: raised, or raised again, in our own code."""
    last = traceback.extract_tb(error.__traceback__)[-1].filename
    if not any(part in last for part in ("data_builders", "cxr_jax")) or "site-packages" in last:
        return "wrong error", "".join(traceback.format_exception(error, limit=-4))
    try:
        readers.check_message(str(error))
    except readers.Broken as broken:
        return "wrong error", str(broken)
    return "refused", str(error)


def run(
    kinds: Iterable[str],
    count: int,
    seed: int,
    workers: int = 2,
    module: str = readers.__name__,
) -> Iterator[Outcome]:
    """Reads inputs 0 to count - 1 of each kind; one outcome each, in no order.

    `module` holds the kinds, by name in KINDS.
    """
    kinds = list(kinds)
    chunks: queue.SimpleQueue = queue.SimpleQueue()
    outcomes: queue.SimpleQueue = queue.SimpleQueue()
    for kind in kinds:
        for start in range(0, count, _CHUNK):
            chunks.put((kind, list(range(start, min(start + _CHUNK, count)))))
    # Here, because a process that dies leaves what it wrote.
    with tempfile.TemporaryDirectory(prefix="faults-") as root:
        arguments = (chunks, outcomes, seed, module, Path(root).resolve())
        threads = [threading.Thread(target=_supervise, args=arguments) for _ in range(workers)]
        for thread in threads:
            thread.start()
        for _ in range(count * len(kinds)):
            yield outcomes.get()
        for thread in threads:
            thread.join()


def _supervise(
    chunks: queue.SimpleQueue, outcomes: queue.SimpleQueue, seed: int, module: str, root: Path
) -> None:
    """Keeps one reading process at work until there are no more chunks."""
    context = multiprocessing.get_context("spawn")
    process = connection = None
    while True:
        try:
            kind, indices = chunks.get(block=False)
        except queue.Empty:
            break
        while indices:
            if process is None:
                connection, theirs = context.Pipe()
                process = context.Process(
                    target=_serve, args=(theirs, seed, module, root), daemon=True
                )
                process.start()
                theirs.close()
            with contextlib.suppress(BrokenPipeError):
                connection.send((kind, indices))
            died = False
            while indices and not died:
                try:
                    answer = connection.recv() if connection.poll(PATIENCE) else None
                except (EOFError, ConnectionResetError):
                    process.join()
                    answer = Outcome(kind, indices[0], "crash", f"exit code {process.exitcode}")
                    died = True
                if answer is None:
                    process.kill()
                    process.join()
                    answer = Outcome(kind, indices[0], "hang", f"no answer in {PATIENCE:.0f} s")
                    died = True
                outcomes.put(answer)
                del indices[0]
            if died:
                connection.close()
                process = None
    if process is not None:
        connection.send(None)
        process.join()


def _serve(connection: Connection, seed: int, module: str, root: Path) -> None:
    """Runs the reading process: chunks in, one outcome an input out."""
    limited.few_arenas()
    kinds = importlib.import_module(module).KINDS
    folder, warm = Path(tempfile.mkdtemp(dir=root)), set()
    while (chunk := connection.recv()) is not None:
        kind, indices = chunk
        resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        if kind not in warm:
            warm.add(kind)
            with contextlib.suppress(ValueError):  # imports what reading needs
                kinds[kind].read(folder, _sound(kinds[kind])[0], 0)
        # Anew for every chunk: TFDS keeps some 40 kB of every builder that it opens.
        limit = limited.address_space() + MEMORY_BYTES
        resource.setrlimit(resource.RLIMIT_AS, (limit, resource.RLIM_INFINITY))
        for index in indices:
            connection.send(read(kind, kinds[kind], index, seed, folder))


def table(outcomes: Iterable[Outcome]) -> str:
    """Markdown: a row a kind."""
    by_kind = collections.defaultdict(list)
    for outcome in outcomes:
        by_kind[outcome.kind].append(outcome)
    lines = ["| kind | tried | read | listed | refused | lost | most memory | most time |"]
    lines.append("|" + " --- |" * 8)
    for kind, of_kind in by_kind.items():
        counts = collections.Counter(outcome.what for outcome in of_kind)
        lost = sum(counts[what] for what in LOST)
        memory = max(outcome.memory for outcome in of_kind) / 1e6
        seconds = max(outcome.seconds for outcome in of_kind)
        cells = (counts[what] for what in ("read", "listed", "refused"))
        numbers = " | ".join(f"{number:,}" for number in (len(of_kind), *cells, lost))
        lines.append(f"| {kind} | {numbers} | {memory:,.0f} MB | {seconds:.1f} s |")
    return "\n".join(lines)


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--kind", action="append", choices=readers.KINDS)
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", type=int, help="read this one input of each kind in this process")
    parser.add_argument("--workers", type=int, default=2)
    own = parser.parse_args(arguments)
    kinds = own.kind or list(readers.KINDS)
    if own.only is not None:
        with tempfile.TemporaryDirectory() as folder:
            for name in kinds:
                place = Path(folder).resolve()
                print(read(name, readers.KINDS[name], own.only, own.seed, place), flush=True)
        return 0
    outcomes, lost = [], 0
    for outcome in run(kinds, own.count, own.seed, own.workers):
        outcomes.append(outcome)
        if outcome.what in LOST:
            lost += 1
            print(f"{outcome.kind} {outcome.index}: {outcome.what}\n{outcome.detail}", flush=True)
    print(table(outcomes))
    return min(lost, 1)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
