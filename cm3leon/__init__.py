"""CM3Leon (arXiv 2309.02591): an open reference implementation. See docs/design.md.

    import cm3leon as c

    c.load("scenes-s").draw(["a large red star on the sand"])     captions -> pictures
    c.score("drawn/", "real/")                                    pictures -> FID, KID, ...
    c.retrieve("a red star", k=2)                                 caption -> documents
    c.train("pictures/", model="scenes-xs", steps=50)             pictures and captions -> a model
    c.records(), c.compare("fid_coco/a", "fid_coco/b")            what was measured

Importing costs nothing: each name brings in what it needs when it is first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import pandas

    from cm3leon.errors import UserError
    from cm3leon.evaluation.score import Scores, score
    from cm3leon.pipeline import System
    from cm3leon.reports.compare import Comparison
    from cm3leon.retrieval.retriever import Found

__version__ = "0.1.0"
__all__ = [
    "Comparison",
    "Found",
    "Scores",
    "System",
    "UserError",
    "compare",
    "load",
    "records",
    "retrieve",
    "score",
    "train",
]
_ELSEWHERE = {  # name -> module that has it
    "Comparison": "cm3leon.reports.compare",
    "Found": "cm3leon.retrieval.retriever",
    "Scores": "cm3leon.evaluation.score",
    "System": "cm3leon.pipeline",
    "UserError": "cm3leon.errors",
    "score": "cm3leon.evaluation.score",
}


def __getattr__(name: str) -> object:
    if name not in _ELSEWHERE:
        raise AttributeError(f"module 'cm3leon' has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_ELSEWHERE[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def load(
    name: str | Path = "scenes-s",
    *,
    documents: int | None = None,
    bank: str | Path | None = None,
    device: str = "auto",
    weights: str = "float32",
) -> System:
    """A trained system, to draw and to caption with: a shipped one by name, or the folder of one.

    `documents`: how many to retrieve before a caption, 0 to 4 (None: as the model's recipe says),
    out of `bank`, what `cm3leon encode` or `cm3leon index` made (None: the model's own). `device`:
    "cpu", "cuda", or "auto", CUDA where there is one. `weights`: the transformer's, "float32",
    "bfloat16" or "int8".

    Raises UserError for an unknown name, a damaged checkpoint, tokenizers that are not the model's,
    documents of a model that knows none.

    >>> system = load("scenes-xs")
    >>> system.draw(["a red star on the sand"]).shape  # uint8 [B, H, W, 3]
    (1, 64, 64, 3)
    """
    from pathlib import Path

    from cm3leon.loading import load_system

    return load_system(
        name,
        device=device,
        documents=documents,
        bank=None if bank is None else Path(bank),
        weights=weights,
    )


def retrieve(
    caption: str,
    k: int = 2,
    *,
    system: str | Path | None = None,
    bank: str | Path | None = None,
    device: str = "auto",
) -> list[Found]:
    """The k documents (1 to 4) that stand before a caption when it is drawn, the best first.

    Each has `id`, `text`, `image` (uint8 [H, W, 3], as the image tokenizer gives it back) and
    `score`, the cosine of CLIP's vectors of caption and document (section 2.1 of the paper: the
    query itself and near copies of a chosen document are passed over). `system`: None is the
    shipped model that was trained with retrieval. `bank` as in `load`.

    Raises UserError for a system that was trained without retrieval.

    >>> [round(one.score, 2) <= 1 for one in retrieve("a red star on the sand")]
    [True, True]
    """
    from cm3leon.loading import find_retrieving

    found = load(find_retrieving(system), documents=k, bank=bank, device=device)
    return found.retrieve(caption, k)


def train(
    source: str | Path,
    out: str | Path = "trained",
    *,
    model: str = "scenes-xs",
    steps: int | None = 50,
    tokenizers: str | Path | None = None,
    **settings: Any,
) -> System:
    """Train a model on a folder of pictures with captions, and load it.

    `source`: a folder of pictures with a .txt beside each, a root of MS-COCO, webdataset's tars, or
    scenes:DIALECT/SPLIT:START:COUNT, as for `cm3leon encode`. Tokens go to `out`/tokens, the model
    to `out`/model, with its log and loss.png in run/; the same call goes on where it was killed.
    `model`: a size of `cm3leon train --model`. `steps`: updates (None: as many as --tokens needs).
    `tokenizers`: the folder of text/ and vq/ (None: the shipped ones, of the embedded world).
    `settings`: further ones of the training, by the names of `cm3leon train`'s options: batch,
    rate, warmup, schedule, seed, eval_every, ...; and device, threads.

    Raises UserError for unknown settings, and for data that do not fit the model.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     trained = train("scenes:stock/train:0:24", folder, steps=1, batch=2, threads=1)
    >>> trained.name
    'model'
    """
    import contextlib
    import sys
    from dataclasses import fields
    from pathlib import Path

    from cm3leon.cli.data import Encode
    from cm3leon.cli.train import Train, TrainChanges
    from cm3leon.errors import UserError
    from cm3leon.options import check_options

    out, home = Path(out), None if tokenizers is None else Path(tokenizers)
    own = {name: settings.pop(name) for name in ("device", "threads") if name in settings}
    known = sorted(one.name for one in fields(TrainChanges) if one.name != "steps")
    if strange := sorted(set(settings) - set(known)):
        raise UserError(f"unknown setting {strange[0]!r}; there are: {', '.join(known)}")
    changes = TrainChanges(steps=steps, **settings)
    encode = Encode(str(source), out / "tokens", clip="none", tokenizers=home)
    trains = Train(
        out / "tokens", out / "model", model=model, tokenizers=home, fit_vocabulary=True,
        training=changes, **own,
    )  # fmt: skip
    for command in (encode, trains):
        check_options(command)
    with contextlib.redirect_stdout(sys.stderr):  # what the commands print
        for command in (encode, trains):
            command.run()
    return load(out / "model")


def records(folder: str | Path | None = None, bench: str | None = None) -> pandas.DataFrame:
    """The records of a folder (None: results/ of the checkout, or of the folder we stand in) as a
    frame, one row a record, oldest first: bench, system, version, protocol, date, commit, device,
    n, value, low, high, and `extra.NAME` of every further number. `bench`: of this benchmark alone.

    Raises UserError where there is none, for a damaged one, and without pandas and jsonschema
    (pip install 'cm3leon[report]').
    """
    from cm3leon.cli.reports import needed
    from cm3leon.reports.records.store import RESULTS, index, read_all

    needed("pandas", "jsonschema")
    return index(read_all(RESULTS if folder is None else folder, bench))


def compare(a: str | Mapping, b: str | Mapping, folder: str | Path | None = None) -> Comparison:
    """Two runs side by side, B judged against A: what differs in their making, then every measure
    with its difference, interval and verdict; `str()` of it is a table.

    A run is a record's path, `bench/system` for the run of `folder` (as in `records`) that speaks
    for it, or a record itself. Differences are paired over prompts where both runs kept the scores
    of their samples; p is adjusted over all measures (Benjamini and Hochberg 1995).

    Raises UserError for a run that is not there. Runs of other protocols are not compared:
    `why_not` says why.
    """
    from collections.abc import Mapping
    from pathlib import Path

    from cm3leon.cli.reports import needed
    from cm3leon.errors import UserError
    from cm3leon.reports import compare as comparing
    from cm3leon.reports.records.store import RESULTS

    needed("jsonschema")
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        return comparing.compare(a, b)
    if isinstance(a, Mapping) or isinstance(b, Mapping):
        raise UserError("compare takes two records, or two names of runs; give both as one kind")
    return comparing.compare_runs(a, b, RESULTS if folder is None else Path(folder))
