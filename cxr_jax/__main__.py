"""cxr_jax: pretrain on unlabelled chest X-rays, transfer, compare.

An installed package has the command `cxr-jax` for what run.py does in a clone:

  python run.py --config=configs/byol.py:demo
      pretrain on drawn images and report: minutes on a CPU, nothing to download
  python -m data_builders.build image_folder --name=mine --manual_dir=FOLDER
      make a dataset of your own images (build --help lists public ones)
  python run.py --config=configs/moco.py:adapt --config.init=ENCODER --config.data.name=mine
      go on from an encoder, such as ImageNet's ResNet-50 (docs/weights.md), with these images: an
      hour on two CPU cores; from random weights :small on one GPU, or :cpu
  python run.py --config=configs/transfer.py --config.encoder=WORKDIR --config.dataset=NAME
      what an encoder is worth on labelled images
  python run.py --reproduce=WORKDIR
      runs it again in a workdir of its own and says whether the results are the same
  python run.py browse NAME
      a page to look through a built dataset's images (browse --help; docs/reports.md)

Options:
  --config=FILE[:PRESET]  what to run; the files are listed below, their presets in their heads
  --config.FIELD=VALUE    changes one field; `--config=FILE --help` lists a config's fields
  --workdir=FOLDER        where results go (default runs/<config>-<time>); an existing one resumes
  --help                  this text

Several processes as one run (docs/cluster.md):
  --distributed=auto|on|off  auto: where srun, mpirun, Cloud TPU or Kubernetes started several tasks
  --coordinator=HOST:PORT --num_processes=N --process_id=I
                          without them; I from 0, HOST is where process 0 runs
  --connect_timeout=SECONDS  how long the processes wait for each other at the start (default 50)
  --heartbeat_timeout=SECONDS  of silence after which a process counts as dead (default 45)
"""

import argparse
import datetime
import errno
import importlib
import os
import platform
import re
import signal
import sys
import tempfile
import threading
import traceback
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

from absl import flags, logging
from ml_collections import ConfigDict

from cxr_jax import config as config_file
from cxr_jax import config_fields
from cxr_jax.io import COMMAND, command_line
from cxr_jax.io.text import in_words

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one experiment and returns the exit code.

    0: done; 1: failed, or not reproduced; 2: a wrong command line; 75: stopped by a signal with its
    state saved, to be started again (training/preemption.py). `arguments` are sys.argv's if None.
    """
    given = command_line(arguments)
    if given[:1] == ["browse"]:
        from cxr_jax.report import browse  # not before: it needs Matplotlib

        return browse.command(given[1:])
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, usage="see --help")
    parser.add_argument("--config")
    parser.add_argument("--workdir")
    parser.add_argument("--reproduce", type=Path)
    parser.add_argument("--help", "-h", action="store_true")
    parser.add_argument("--distributed", choices=("auto", "on", "off"), default="auto")
    parser.add_argument("--coordinator")
    parser.add_argument("--num_processes", type=int)
    parser.add_argument("--process_id", type=int)
    parser.add_argument("--connect_timeout", type=int, default=50)
    parser.add_argument("--heartbeat_timeout", type=int, default=45)
    own, overrides = parser.parse_known_args(given)
    if own.help:
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # its reader may be head
    if own.help and not own.config:
        print(__doc__.replace("python run.py", COMMAND))
        print("Configs:\n" + config_file.list_configs())
        return 0
    path, _, preset = (own.config or "").partition(":")
    start = f"runs/{'-'.join(part for part in (Path(path).stem, preset) if part)}"
    start = f"{own.reproduce}-reproduced" if own.reproduce else start
    workdir = own.workdir or f"{start}-{datetime.datetime.now():%Y%m%d-%H%M%S}"
    workdir = Path(workdir).expanduser()
    try:
        if own.reproduce and own.config:
            raise ValueError("--reproduce goes without --config: the workdir has its own")
        if own.reproduce:
            config = config_file.load_saved(own.reproduce, workdir, overrides)
        else:
            config = config_file.load(own.config, overrides)
        if own.help:
            print(config_fields.help_text(own.config, config))
            return 0
        _keep_compiled_programs()
        from cxr_jax.training import distributed  # not before: JAX takes seconds

        distributed.meet(own, config.experiment)
    except (ValueError, OSError, flags.Error) as error:
        print(f"error: {in_words(error)}", file=sys.stderr)
        return 2
    return _run(config, workdir, own.reproduce)


def _run(config: ConfigDict, workdir: Path, reproduced: Path | None) -> int:
    from cxr_jax import xla
    from cxr_jax.training import distributed, preemption, sharding

    go_on, shared = f"To go on: the same command with --workdir={workdir}", distributed.count() > 1
    try:
        preemption.listen(go_on)
        print(f"workdir: {workdir}", flush=True)
        flags.FLAGS(["run.py"])  # Grain reads its own flags, which nobody else parses
        # Orbax reports every save, and in pages each that fails, which then raises as well.
        logging.set_verbosity(logging.FATAL)
        sys.excepthook = _say_in_main_thread
        if shared:
            command = {"--workdir": workdir, "--num_processes": distributed.count()}
            command |= {f"--config.{n}": v for n, v in config_file.flat(config.to_dict())}
            distributed.agree("command or versions", command | distributed.versions())
        elif config.experiment == "pretrain":
            sharding.split_cpu(config.microbatch_size or config.batch_size)
        xla.check_devices()
        _draw_missing(config)
        # Late, so that --help, wrong command lines and hosts that differ answer at once.
        experiment = importlib.import_module(f"cxr_jax.experiments.{config.experiment}")
        if reproduced:
            from cxr_jax.experiments import reproduce

            reproduce.check(config, reproduced)
        experiment.run(config, workdir)
        same = True
        if reproduced and distributed.is_first():
            same = reproduce.report(config, reproduced, workdir)
        distributed.leave()
        return int(not same)
    except preemption.Preempted as notice:
        print(f"{notice}. {go_on}", flush=True)
        if notice.saved:
            distributed.leave()
        else:
            distributed.fail(str(notice), preemption.EXIT_CODE)
        return preemption.EXIT_CODE
    except KeyboardInterrupt:
        print(f"\nInterrupted. {go_on}")
        distributed.fail("interrupted", 130)
        return 130
    except Exception as error:
        expected = isinstance(error, (ValueError, OSError, FloatingPointError))
        message = f"{'' if expected else type(error).__name__ + ': '}{in_words(error)}"
        if shared and not expected:
            message += "\n(If its connection to another host broke, that one's messages say why.)"
        if getattr(error, "errno", None) in _FULL:
            message = message.removeprefix(f"[Errno {error.errno}] ")
            message += (
                f"\nFree space for {workdir}, and give the same command: what it saved stays."
            )
        who = f"{distributed.name()}: " if shared else ""
        print(f"{who}error: {message}{_keep_traceback(error)}", file=sys.stderr, flush=True)
        distributed.fail(message)
        return 1


def _say_in_main_thread(kind: type, error: BaseException, trace: TracebackType | None) -> None:
    """Prints an exception that nobody caught, unless it is of a thread of tensorstore's.

    Where a disk is full each of these prints one for every file; the save raises it as well.
    """
    if threading.current_thread() is threading.main_thread():
        sys.__excepthook__(kind, error, trace)


def _draw_missing(config: ConfigDict) -> None:
    """Builds the drawn dataset where the config names it and it is missing."""
    from data_builders import build

    naming = (".dataset", ".datasets", ".data.name", ".data.exclude")
    fields = config_file.flat(config.to_dict(), ".")
    lists = [value for name, value in fields if name.endswith(naming)]
    names = [re.split("[:@]", name)[0].strip() for value in lists for name in value.split(",")]
    build.draw_missing(names, config.data.dir)


def _keep_traceback(error: Exception) -> str:
    """Keeps the traceback for a developer, unless one of our modules raised and thus explained it.

    Returns where, in words to put behind the message.
    """
    if isinstance(error, OSError) and (error.filename or error.errno in _FULL):
        return ""  # it says which file, and what of it
    last = traceback.extract_tb(error.__traceback__)[-1]
    ours = [Path(__file__).parents[1] / name for name in ("cxr_jax", "data_builders", "configs")]
    if (last.line or "").startswith("raise ") and set(ours) & set(Path(last.filename).parents):
        return ""
    keep = dict(prefix="cxr_jax-", suffix=".txt", delete=False)
    try:
        with tempfile.NamedTemporaryFile("w", **keep) as file:
            traceback.print_exception(error, file=file)
    except OSError as full:  # a full disk may be why we are here
        return f"\n(traceback not kept: {full})"
    return f"\n(traceback: {file.name})"


def _keep_compiled_programs() -> None:
    """Lets a run that resumes, or is like the last one, skip compiling.

    One folder per machine, because programs for CPUs use what one CPU can and another cannot.
    """
    caches = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    folder = caches / "cxr_jax" / "compiled" / platform.node()
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(folder))


if __name__ == "__main__":
    sys.exit(main())
