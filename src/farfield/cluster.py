"""Work on a Ray cluster (https://docs.ray.io): calls that do not depend on one another, their results in order.

    with Cluster("local") as cluster:               # Ray on this machine; or the address of a cluster
        results = cluster.map(evaluate, settings)   # as [evaluate(one) for one in settings], on all workers there are

A call gets the same arguments as in one process and runs the same code, so its result is the same; a worker stands in
the folder that the caller stands in, where it has it. Every machine needs Farfield installed, and the files that the
calls read and write. Ray sends nothing to its makers: its usage statistics are off unless the environment has them on.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType, TracebackType
from typing import Any, TypeVar

from farfield.config import ClusterError, ConfigError
from farfield.progress import Bar

__all__ = ["LOCAL", "Cluster"]

LOCAL = "local"

A = TypeVar("A")
R = TypeVar("R")


class Cluster:
    """A Ray cluster, for as long as the context lasts; one that was started for it ends with it.

    Raises:
        ConfigError: Ray is not installed, or nothing answers at the address.
    """

    def __init__(self, address: str = LOCAL, cpus: float = 1, gpus: float = 0, workers: int | None = None) -> None:
        """`cpus` and `gpus` are those of each call; `workers` the cores of a local cluster, None for all of them."""
        self.address, self.cpus, self.gpus, self.workers = address, cpus, gpus, workers
        self._ray: ModuleType = _ray()
        self._joined = False

    def __enter__(self) -> Cluster:
        self._joined = bool(self._ray.is_initialized())  # the program has joined a cluster already: that one is used
        if not self._joined:
            try:
                self._start()
            except (ConnectionError, OSError, RuntimeError, ValueError) as error:
                line = " ".join(str(error).split())[:200]
                raise ConfigError(f"--ray {self.address}: no Ray cluster could be joined there ({line}).") from None
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._joined:
            self._ray.shutdown()

    def map(self, call: Callable[[A], R], arguments: Sequence[A], bar: Bar | None = None) -> list[R]:
        """The results of `call` for each argument, in order; `bar` counts them as they come.

        A call whose worker dies is made once more. The first error that a call raises is raised here, and calls that
        have not begun are not made.
        """
        remote = self._ray.remote(num_cpus=self.cpus, num_gpus=self.gpus, max_retries=1)(_at)
        made = [remote.remote(str(Path.cwd()), call, argument) for argument in arguments]
        pending = list(made)
        try:
            while pending:
                ready, pending = self._ray.wait(pending, num_returns=1)
                for reference in ready:
                    self._result(reference)
                    if bar:
                        bar.step()
        finally:
            for reference in pending:
                self._ray.cancel(reference)
        return [self._result(reference) for reference in made]

    def _result(self, reference: Any) -> Any:
        """What a call returned; the error that it raised as it was."""
        try:
            return self._ray.get(reference)
        except self._ray.exceptions.RayTaskError as error:
            raise error.cause from None
        except self._ray.exceptions.RayError as error:
            line = " ".join(str(error).split())[:200]
            raise ClusterError(f"--ray {self.address}: a worker was lost twice ({line}).") from None

    def _start(self) -> None:
        quiet = {"include_dashboard": False, "log_to_driver": False, "logging_level": "error"}
        if self.address == LOCAL:
            found = {"env_vars": {"PYTHONPATH": os.pathsep.join(path or str(Path.cwd()) for path in sys.path)}}
            self._ray.init(address=LOCAL, num_cpus=self.workers, runtime_env=found, **quiet)
        else:
            self._ray.init(address=self.address, log_to_driver=False, logging_level="error")


def _at(folder: str, call: Callable[[A], R], argument: A) -> R:
    """A call in the folder of whoever asked for it."""
    with contextlib.suppress(OSError):  # a machine without that folder: absolute paths are all it can read
        os.chdir(folder)
    return call(argument)


def _ray() -> ModuleType:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    try:
        return importlib.import_module("ray")
    except ImportError as error:
        raise ConfigError(
            f"--ray: Ray cannot be loaded ({error}). Install it with: pip install 'farfield[ray]'"
        ) from error
