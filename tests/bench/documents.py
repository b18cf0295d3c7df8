"""Documents for tests: rows with samples that are drawn, of machines that do not exist."""

import json

import numpy as np

from jaxprop.bench.document import SCHEMA, Document, Environment, Row, as_json
from jaxprop.bench.samples import drift, estimate

EVIL = "</script><img src=x onerror=alert(1)>|`*\x1b[31m"


def make_row(name="step", seconds=0.01, *, section="train", rounds=5, count=20, noise=0.01, seed=0, **changed):
    """A row in ms of samples that scatter upwards only, as what disturbs a measurement does."""
    rng = np.random.default_rng(seed)
    per_call = changed.pop("per_call", 1e3)
    better = changed.pop("better", "lower")
    samples = [
        (seconds * np.exp(abs(rng.normal(0, noise)) + abs(rng.normal(0, noise, count)))).tolist() for _ in range(rounds)
    ]
    found = estimate(samples)
    ends = [per_call / one if better == "higher" else per_call * one for one in (found.low, found.middle, found.high)]
    low, value, high = sorted(ends)
    fields = {"unit": "ms", "status": "noisy" if found.noise > 0.05 and rounds > 1 else "ok", "value": value}
    fields |= {"low": low, "high": high, "samples": samples, "drift": drift(samples)}
    return Row(section=section, name=name, better=better, per_call=per_call, **(fields | changed))


def make_document(*rows, command="train", kinds=("NVIDIA H100 80GB HBM3",), host=None, **changed):
    """A document of these rows, complete unless said otherwise."""
    environment = Environment(
        devices=[{"kind": kind, "platform": "gpu", "counts_as": "a whole card"} for kind in kinds],
        host={"cpu": "AMD EPYC 9554", "cores": 16, "affinity": "0,1", "system": "Linux x86_64"} | (host or {}),
        versions={"python": "3.12.1", "jax": "0.10.2"} | changed.pop("versions", {}),
        flags=changed.pop("flags", {}),
        commit=changed.pop("commit", "0123456789ab"),
    )
    fields = {"started": "2026-11-27T12:00:00+00:00", "seconds": 60.0, "complete": True} | changed
    return Document(schema=SCHEMA, command=command, environment=environment, rows=list(rows), **fields)


def save(document, path):
    """Writes a document, and returns the path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(as_json(document)))
    return path


def device_document():
    """What `bench device` measures, with all sweeps, a figure that failed, and one above the others."""
    rows = []
    for dtype, peak in (("float32", 50.0), ("bfloat16", 700.0)):
        for size in (256, 1024, 4096):
            flops = 2 * size**3 / 1e12
            rows.append(
                make_row(
                    f"{dtype} {size} x {size} x {size}",
                    flops / (peak * size / 4096),
                    section="matmul",
                    unit="TFLOP/s",
                    better="higher",
                    per_call=flops,
                    facts={"dtype": dtype, "m": size, "k": size, "n": size},
                )
            )
    for operation in ("copy", "triad"):
        for size in (1 << 15, 1 << 22, 1 << 29):
            rows.append(
                make_row(
                    f"{operation} {size >> 10} KiB",
                    size / 3e12,
                    section="memory",
                    unit="GB/s",
                    better="higher",
                    per_call=size / 1e9,
                    facts={"operation": operation, "bytes": size, "clock_mhz": 1980.0},
                )
            )
    rows.append(Row(section="matmul", name="int8 256", status="unsupported", message="no kernel", unit="TFLOP/s"))
    return make_document(*rows, command="device", notes=["temperature cannot be read"])


def train_document():
    """What `bench train` measures: a sweep over batches, a batch that does not fit, and the roofline of a step."""
    rows = []
    for precision, speed in (("float32", 8), ("bfloat16", 30)):
        for batch in (8, 16, 32):
            seconds, name = 0.01 * batch / speed, f"gpt_10m {precision} batch {batch}"
            facts = {"workload": "gpt_10m", "precision": precision, "batch": batch}
            rows.append(make_row(name, seconds, facts=facts | {"examples_per_s": batch / seconds}))
            rows.append(make_row(f"{name}, health off", seconds, facts=facts))
    rows.append(Row(section="train", name="gpt_10m float32 batch 64", status="out_of_memory", message="does not fit"))
    for name, intensity, tflops in (("attention", 60.0, 120.0), ("feed-forward", 300.0, 500.0), ("norm", 1.5, 3.0)):
        rows.append(
            make_row(
                name,
                0.001,
                section="roofline",
                unit="TFLOP/s",
                better="higher",
                per_call=tflops / 1e3,
                facts={"of": "gpt_10m", "flops_per_byte": intensity, "tflops": tflops},
            )
        )
    device = [row for row in device_document().rows if row.value]
    return make_document(*rows, *device)
