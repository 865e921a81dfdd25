"""Memory of a whole pinned evaluation: flat in the number of pictures, or bounded where it is not.

Moments of 2,048 features take the same memory for 2,000 pictures as for 8,000. KID, precision and
recall need rows of features side by side: at most `KID_ROWS` and `COVER_ROWS` a side. Each run is a
process of its own, whose peak is what the system says it held at most.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.coco_maker import write_coco

ROOT = Path(__file__).resolve().parents[2]
SMALL, LARGE, WIDTH = 2_000, 8_000, 2_048
MIB = 2**20
RUN = """
import json, sys
from pathlib import Path

import numpy as np
from tests.coco_maker import Tinted

from benchmarks import fid_coco
from benchmarks.evaluate import fid, pinned
from benchmarks.speed import memory
from cm3leon.evaluation.features.network import Features
from cm3leon.seeds import generator

N, FOLDER, REFERENCE = int(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3])
mixed = generator(0, "wide").standard_normal((192, 2048), np.float32) / 100

def embed(images):
    return images[:, ::2, ::2].reshape(len(images), -1).astype(np.float32) @ mixed

network = Features("inception-clean", "6726825d" + "0" * 56, 2048, 16, embed)
pinned.load_features = lambda *_, **__: network
fid.write_grid = lambda *_: None
given = {"reference": REFERENCE} if REFERENCE.is_file() else {}
options = fid_coco.Options(
    protocol="coco2014-30k/clean", coco_root=FOLDER / "coco", n=N, resamples=2, **given,
    **{name: FOLDER / str(N) / name for name in ("results", "reports", "cache")},
)
system = Tinted()
if len(sys.argv) > 4:  # the drawings alone, so that the next run measures the evaluation
    from benchmarks.images import generated as images
    prompts = pinned.Job(protocol=fid_coco.find_protocol(options.protocol), n=N,
                         root=options.coco_root).task().prompts
    images.draw(system, prompts, 0, options.cache)
    sys.exit()
memory.start_peak("cpu")
before = memory.peak_bytes("cpu")
record, _ = fid_coco.fid_coco(options, system)
print(json.dumps([before, memory.peak_bytes("cpu"), record["value"], sorted(record["extra"])]))
"""


@pytest.fixture(scope="module")
def evaluate(tmp_path_factory):
    """`evaluate(n, whole) -> (bytes before, peak, value, names beside it)` in a process."""
    folder = tmp_path_factory.mktemp("memory")
    write_coco(folder / "coco", count=LARGE, size=(18, 16), captions=1)
    reference = folder / "reference.npz"
    rows = np.random.default_rng(0).standard_normal((5_000, WIDTH))
    np.savez(reference, mu=rows.mean(0), sigma=np.cov(rows.T))

    def call(n: int, whole: bool):
        place = folder / "none" if whole else reference
        for further in (["draw"], []) if not (folder / str(n)).exists() else ([],):
            done = subprocess.run(
                [sys.executable, "-c", RUN, str(n), str(folder), str(place), *further],
                capture_output=True,
                text=True,
                env=os.environ | {"PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}", "OMP_NUM_THREADS": "1"},
                cwd=folder,
            )
            assert done.returncode == 0, done.stderr[-2000:]
        return json.loads(done.stdout.splitlines()[-1])

    return call


@pytest.mark.full
@pytest.mark.skipif(sys.platform != "linux", reason="the peak can be reset on Linux alone")
def test_memory_of_an_evaluation(evaluate):
    """Minutes: 2,000 and 8,000 pictures, by moments alone and with what needs rows.

    Measured: 838 and 847 MiB by moments, 1,537 and 1,696 MiB with rows, which above `KID_ROWS`
    and `COVER_ROWS` pictures are no more.
    """
    from cm3leon.evaluation.metrics.kid import ROWS as KID_ROWS
    from cm3leon.evaluation.metrics.precision_recall import ROWS as COVER_ROWS

    _, small, _, _ = evaluate(SMALL, False)
    _, large, value, beside = evaluate(LARGE, False)
    print(f"moments: {small / MIB:.0f} MiB at {SMALL}, {large / MIB:.0f} MiB at {LARGE}")
    assert np.isfinite(value) and "kid" not in beside
    assert large < 1.05 * small
    assert large - small < (LARGE - SMALL) * WIDTH * 4 / 2  # far less than the further rows
    _, whole, _, beside = evaluate(LARGE, True)
    _, less, _, _ = evaluate(SMALL, True)
    print(f"with rows: {less / MIB:.0f} MiB at {SMALL}, {whole / MIB:.0f} MiB at {LARGE}")
    assert "kid" in beside
    rows = max(KID_ROWS, COVER_ROWS) - SMALL  # more than before on each of two sides
    read, joined, doubled = 4, 4, 8  # bytes of a number: from shards, as one array, in float64
    assert whole - less < 2 * rows * WIDTH * (read + joined + doubled) + 32 * MIB


SCORE = """
import json, sys

from benchmarks.speed import memory
from cm3leon.evaluation import score as module
from cm3leon.evaluation.features.network import Features
from cm3leon.seeds import generator

mixed = generator(0, "wide").standard_normal((192, 2048), "float32") / 100

def embed(images):
    return images[:, ::2, ::2].reshape(len(images), -1).astype("float32") @ mixed

network = Features("wide", "0" * 64, 2048, 16, embed)
module.find_network = lambda *_: network
memory.start_peak("cpu")
before = memory.peak_bytes("cpu")
found = module.score(sys.argv[1], sys.argv[2], "fid")
print(json.dumps([before, memory.peak_bytes("cpu"), found["fid"], found.images.pictures]))
"""


@pytest.mark.full
@pytest.mark.skipif(sys.platform != "linux", reason="the peak can be reset on Linux alone")
def test_memory_of_a_score(tmp_path):
    """A folder of 2,000 pictures costs no more than one of 500."""
    from cm3leon.images import write_png
    from cm3leon.seeds import generator

    for name, count in (("few", 500), ("many", 2_000), ("real", 500)):
        images = generator(0, name).integers(0, 256, (count, 16, 16, 3), np.uint8)
        for place, image in enumerate(images):
            write_png(tmp_path / name / f"{place}.png", image, durable=False)
    peaks = {}
    for name, count in (("few", 500), ("many", 2_000)):
        done = subprocess.run(
            [sys.executable, "-c", SCORE, str(tmp_path / name), str(tmp_path / "real")],
            capture_output=True, text=True,
            env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-2000:]
        _, peaks[name], value, seen = json.loads(done.stdout.splitlines()[-1])
        assert np.isfinite(value) and seen == count
    print(f"{peaks['few'] / MIB:.0f} MiB at 500, {peaks['many'] / MIB:.0f} MiB at 2,000")
    assert peaks["many"] < 1.03 * peaks["few"]
