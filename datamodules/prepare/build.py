"""Shards from videos: in this process, in worker processes, or in jobs of a cluster."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from datamodules.prepare.clips import VideoReport
from datamodules.prepare.config import BuildOptions, PrepareConfig
from datamodules.prepare.parts import (
    FOLDER,
    MakeEmbedder,
    MakeTracker,
    Part,
    PartMaker,
    finished_part,
    give_up_part,
    join_parts,
    remove_parts,
)
from datamodules.prepare.processes import GivenUp, default_workers, limit_threads, run_tasks
from datamodules.prepare.reusing import TRANSIENT, TrackedVideos
from datamodules.shards import finished_shard
from rome_lightning.media.cluster_jobs import MOST_TIME_LIMITS, wait_for_job
from rome_lightning.media.remaining import time_left

Log = Callable[[str], None]


@dataclass(frozen=True)
class ShardPlan:
    """A shard to build."""

    split: str
    name: str
    spec: Mapping[str, Any]
    parts: list[Part]


@dataclass(frozen=True)
class Builder:
    """Builds the shards of a plan; picklable, so it can run as a cluster job."""

    output: Path
    config: PrepareConfig
    options: BuildOptions
    make_tracker: MakeTracker
    make_embedder: MakeEmbedder

    def build(self, plans: Sequence[ShardPlan], log: Log) -> None:
        """Build every unfinished shard.

        Raises:
            OSError: something cannot be written; finished work is kept.
        """
        todo = [plan for plan in plans if self._needed(plan, log)]
        if not todo:
            return
        folder = self.output / FOLDER
        folder.mkdir(exist_ok=True)
        missing = {
            plan.name: {part.name for part in plan.parts if finished_part(part, folder) is None}
            for plan in todo
        }
        self._reuse(todo, missing, log)
        parts = [part for plan in todo for part in plan.parts if part.name in missing[plan.name]]
        progress = _Progress(len(parts), sum(len(plan.parts) for plan in todo), log)
        for plan in todo:
            if not missing[plan.name]:
                self._join(plan, log)
        plan_of = {part.name: plan for plan in todo for part in plan.parts}
        for part, report in self._reports(parts, folder):
            progress.tell(report)
            plan = plan_of[part.name]
            missing[plan.name].discard(part.name)
            if not missing[plan.name]:
                self._join(plan, log)

    def _reuse(self, plans: Sequence[ShardPlan], missing: dict[str, set[str]], log: Log) -> None:
        """Reuse the tracking of earlier shards with other splits or people."""
        tracked = TrackedVideos(self.output)
        count = 0
        for plan in plans:
            for part in plan.parts:
                if part.name in missing[plan.name] and tracked.take(part) is not None:
                    missing[plan.name].discard(part.name)
                    count += 1
        if count:
            log(f"{count} videos are reused from shards of an earlier run with the same settings")

    def _needed(self, plan: ShardPlan, log: Log) -> bool:
        info = finished_shard(self.output, plan.name, plan.spec)
        if info is None:
            return True
        if self.options.retry_failed and any(item.get("kind") in TRANSIENT for item in info.failed):
            log(f"{plan.name}: rebuilt because one of its videos failed")
            (self.output / f"{plan.name}.json").unlink()
            return True
        log(f"{plan.name}: kept from an earlier run ({info.clips} clips, {info.frames} frames)")
        return False

    def _reports(self, parts: Sequence[Part], folder: Path) -> Iterator[tuple[Part, VideoReport]]:
        """Process the parts; yield each when it is on disk."""
        maker = PartMaker(folder, self.config, self.make_tracker, self.make_embedder)
        # Floating-point sums depend on how threads divide them; a single thread gives the same bytes
        # everywhere.
        with limit_threads(1):
            if self.options.workers == 0 and parts:
                make = maker()
                yield from ((part, make(part)) for part in parts)
                return
            workers = self.options.workers or default_workers()
            for part, result in run_tasks(parts, maker, workers, self.options.video_limit_s):
                if isinstance(result, GivenUp):
                    result = give_up_part(part, folder, result.reason, result.kind)
                yield part, result

    def _join(self, plan: ShardPlan, log: Log) -> None:
        info = join_parts(plan.name, plan.spec, plan.parts, self.output)
        remove_parts([part.name for part in plan.parts], self.output / FOLDER)
        log(f"{plan.name}: finished ({info.clips} clips, {info.frames} frames)")


class _Progress:
    """Reports the result of each video and the time left for the others."""

    def __init__(self, todo: int, total: int, log: Log) -> None:
        self.todo, self.total, self.log = todo, total, log
        self.done = 0
        self.start = time.monotonic()
        kept = f", {total - todo} of them done in an earlier run" if total > todo else ""
        log(f"{total} videos{kept}")

    def tell(self, report: VideoReport) -> None:
        self.done += 1
        place = f"[{self.total - self.todo + self.done}/{self.total}] {report.input}"
        if report.failed:
            self.log(f"{place}: FAILED: {report.failed}{self._left()}")
            return
        rejected = ", ".join(f"{count} {reason}" for reason, count in report.rejected.items())
        without = f" (rejected: {rejected})" if rejected else ""
        used = f"{report.num_used} of {report.num_frames} frames in {len(report.clips)} clips{without}"
        self.log(f"{place}: {used}{self._left()}")

    def _left(self) -> str:
        left = time_left(time.monotonic() - self.start, self.done, self.todo)
        return f", {left}" if left else ""


def build_everywhere(builder: Builder, plans: Sequence[ShardPlan], log: Log) -> None:
    """Build the shards with the configured engine; return when all are finished.

    Raises:
        ImportError: the engine is not installed.
        RuntimeError: a job failed; its finished shards are kept.
    """
    engine = {"local": _local, "submitit": _submitit, "ray": _ray}[builder.options.engine]
    engine(builder, plans, log)


def _local(builder: Builder, plans: Sequence[ShardPlan], log: Log) -> None:
    builder.build(plans, log)


def _shares(builder: Builder, plans: Sequence[ShardPlan]) -> list[list[ShardPlan]]:
    """Shards of each job, dealt out in turn."""
    jobs = min(builder.options.jobs, len(plans))
    return [list(plans[job::jobs]) for job in range(jobs)]


def _run_share(builder: Builder, plans: Sequence[ShardPlan]) -> int:
    builder = replace(builder, options=replace(builder.options, engine="local"))
    builder.build(plans, partial(print, flush=True))
    return len(plans)


@dataclass(frozen=True)
class _Share:
    """Body of a job."""

    builder: Builder

    def __call__(self, plans: Sequence[ShardPlan]) -> int:
        """Build the shards of a job."""
        return _run_share(self.builder, plans)

    def checkpoint(self, plans: Sequence[ShardPlan]) -> Any:
        """The job that submitit requeues at the time limit: finished work is on disk."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self, plans)


def _submitit(builder: Builder, plans: Sequence[ShardPlan], log: Log) -> None:
    try:
        import submitit
    except ImportError as error:
        raise ImportError(
            "engine submitit needs the package submitit: pip install 'rome-lightning[slurm]'"
        ) from error
    options = builder.options
    parameters = {"name": "rome-prepare", "cpus_per_task": options.workers or 1, **options.slurm}
    # Absolute, because the scheduler chooses the job's working folder.
    builder = replace(builder, output=builder.output.resolve())
    folder = builder.output / ".jobs"
    # By default submitit gives up on a job after three time limits.
    executor = submitit.AutoExecutor(
        folder=folder, cluster=parameters.pop("cluster", None), slurm_max_num_timeout=MOST_TIME_LIMITS
    )
    executor.update_parameters(**parameters)
    shares = _shares(builder, plans)
    jobs = executor.map_array(_Share(builder), shares)
    log(f"{len(jobs)} jobs for {len(plans)} shards ({jobs[0].job_id} ...), output in {folder}")
    failed: list[str] = []
    for job, share in zip(jobs, shares, strict=True):
        problem = wait_for_job(job, of_slurm=executor.cluster == "slurm")
        if problem:
            failed.append(f"{job.job_id}: {problem[-300:]}")
        log(f"job {job.job_id}: {'FAILED' if problem else 'finished'} ({len(share)} shards)")
    _raise_failed_jobs(failed, f"their output is in {folder}")


def _ray(builder: Builder, plans: Sequence[ShardPlan], log: Log) -> None:
    try:
        import ray
    except ImportError as error:
        raise ImportError("engine ray needs the package ray: pip install 'rome-lightning[ray]'") from error
    builder = replace(builder, output=builder.output.resolve())
    if not ray.is_initialized():
        ray.init(log_to_driver=True)
    work = ray.remote(num_cpus=builder.options.workers or 1, max_retries=1)(_run_share)
    shares = _shares(builder, plans)
    waiting = {work.remote(builder, share): share for share in shares}
    failed: list[str] = []
    while waiting:
        (done, *_), _ = ray.wait(list(waiting), num_returns=1)
        share = waiting.pop(done)
        try:
            ray.get(done)
        except ray.exceptions.RayError as error:
            failed.append(" ".join(str(error).split())[-300:])
        log(f"{len(share)} shards done, {sum(map(len, waiting.values()))} left")
    _raise_failed_jobs(failed, "their output is above, and in /tmp/ray/session_latest/logs of each node")


def _raise_failed_jobs(failed: Sequence[str], where: str) -> None:
    if failed:
        raise RuntimeError(
            f"{len(failed)} jobs failed, run the same command again to build the missing shards; "
            f"{where}; the first: {failed[0]}"
        )
