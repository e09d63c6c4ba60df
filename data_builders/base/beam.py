"""Building on many machines: each worker of an Apache Beam pipeline writes whole shards.

The workers need the raw images and the data folder under the same paths (a shared file system), and
this package. What they write is what one machine writes, byte for byte.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from typing import Any

from data_builders.base import write
from data_builders.base.records import BuildError


def run(
    plan: Sequence[write.Shard], job: write.Job, runner: str, options: Any
) -> list[write.Written]:
    """Writes every shard through Beam and waits for the last.

    Args:
      runner: a Beam runner's name, e.g. "DirectRunner", "FlinkRunner", "SparkRunner".
      options: Beam's PipelineOptions, or None.

    Raises:
      BuildError: Beam is not installed, the runner is unknown, or a worker's shard is not to be
        found in the data folder.
    """
    beam = _import_beam()
    try:
        pipeline = beam.Pipeline(runner=runner, options=options)
    except ValueError as error:
        raise BuildError(f"--beam_runner={runner}: {error}") from error
    with pipeline:
        # Reshuffled, or Beam would fuse listing and writing into one worker's work.
        pipeline | beam.Create(list(plan)) | beam.Reshuffle() | beam.Map(job.write_alone)
    missing = [shard for shard in plan if not shard.path(job.folder).exists()]
    if missing:
        raise BuildError(
            f"{len(missing)} of {len(plan)} shards are not in {job.folder} after the Beam "
            "pipeline: its workers must see the data folder under the same path."
        )
    return [write.Written.load(shard.path(job.folder)) for shard in plan]


def pipeline_options(flags: str) -> Any:
    """Beam's PipelineOptions from flags as on a command line.

    Raises:
      BuildError: Beam is not installed.
    """
    _import_beam()
    from apache_beam.options.pipeline_options import PipelineOptions

    return PipelineOptions(shlex.split(flags))


def _import_beam() -> Any:
    try:
        import apache_beam
    except ImportError as error:
        raise BuildError("--beam_runner needs Apache Beam: pip install -e '.[beam]'.") from error
    return apache_beam
