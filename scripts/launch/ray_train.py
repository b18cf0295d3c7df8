"""Trains a configuration with Ray Train: one process a worker, as many as the cluster has room for.

    python scripts/launch/ray_train.py configs/digits_mlp.yaml --run /shared/runs/digits --workers 1 4 --cpus 2

Needs: `pip install "ray[train]"`, a Ray cluster or one machine, and a folder that all workers share for the run. To
change: the options. With two numbers after --workers the run is elastic: Ray starts it with what there is between them,
and again with another number when a node is lost or added; it then resumes from its newest checkpoint.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any


def work(settings: dict[str, Any]) -> None:
    """What each worker runs."""
    import ray.train

    import jaxprop
    from jaxprop.config.load import load
    from jaxprop.run.train import train

    with jaxprop.start_processes("ray") as hosts:
        outcome = train(load(settings["config"], settings["overrides"]).config, settings["run"])
    ray.train.report({"process": hosts.process_index, "processes": hosts.process_count, **outcome.summary["metrics"]})


def check(config: str, overrides: list[str]) -> None:
    """Ends at once with a sentence where a configuration is wrong; Ray would start its workers again and again."""
    from jaxprop.config.load import load
    from jaxprop.errors import JaxpropError

    try:
        load(config, overrides)
    except JaxpropError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)


def for_workers(config: str) -> str:
    """Returns a path that holds in the folder of a worker, too; the name of a packaged configuration stays one."""
    return str(Path(config).absolute()) if Path(config).is_file() else config


def main() -> None:
    """Reads the options, and hands the work to Ray."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("config")
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    parser.add_argument("--run", type=Path, required=True, help="folder of the run, which all workers share")
    parser.add_argument("--workers", type=int, nargs="+", default=[2], help="their number, or the least and the most")
    parser.add_argument("--cpus", type=int, default=1, help="of each worker")
    parser.add_argument("--gpus", type=int, default=0, help="of each worker")
    parser.add_argument("--failures", type=int, default=3, help="how often Ray starts the run again")
    options = parser.parse_args()

    check(options.config, options.overrides)
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.v2.jax import JaxTrainer

    workers = options.workers[0] if len(options.workers) == 1 else tuple(options.workers)
    resources = {"CPU": options.cpus} | ({"GPU": options.gpus} if options.gpus else {})
    trainer = JaxTrainer(
        work,
        train_loop_config={
            "config": for_workers(options.config), "overrides": options.overrides,
            "run": str(options.run.absolute()),
        },
        scaling_config=ScalingConfig(
            num_workers=workers, use_gpu=bool(options.gpus), resources_per_worker=resources
        ),
        run_config=RunConfig(
            name=options.run.name, storage_path=str(options.run.absolute().parent / "ray"),
            failure_config=FailureConfig(max_failures=options.failures),
        ),
    )  # fmt: skip
    trainer.fit()
    print(f"jaxprop eval {options.run} evaluates what was trained")


if __name__ == "__main__":
    main()
