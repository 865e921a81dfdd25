"""Two sides of pictures -> numbers, and what those can be compared with.

    score("drawn/", "real/")                              FID, KID, precision, recall
    score(images, "real.npz", metrics=["fid"], network="inception-clean:FILE")

The way is that of the benchmarks: pictures -> features (`features/`), features -> numbers
(`sides.numbers`). Features of a folder or an archive lie on disk, in shards, so that memory does
not grow with the number of pictures.

Shapes: N pictures, H x W pixels, D features.
"""

from __future__ import annotations

import tempfile
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cm3leon.errors import UserError, did_you_mean
from cm3leon.evaluation.measures import MEASURES, NONE, Measure, Missing, find_measure
from cm3leon.evaluation.pictures import Source, find_side
from cm3leon.evaluation.sides import Held, Side, Sides, numbers
from cm3leon.identity import joined
from cm3leon.seeds import generator

if TYPE_CHECKING:
    from cm3leon.evaluation.features.network import Features
    from cm3leon.evaluation.features.statistics import Statistics

DEFAULT = ("fid", "kid", "precision", "recall")
NEED_MORE = ("clip_score", "composition", "impossible")  # modules: captions, scenes, codes
METRICS = {  # number -> module of metrics/ that takes it; that of FID itself is not a table's row
    "fid": "",
    **{
        one.name: one.module
        for one in MEASURES
        if one.module and one.module not in NEED_MORE and one.better != NONE and "*" not in one.name
    },
}
RESIZES = {  # network -> what is done to a picture before, and whose numbers these are
    "scenes": ("centre square, Lanczos to 64", ""),
    "inception": ("299 x 299, bilinear without antialiasing", "pytorch-fid"),
    "inception-clean": ("299 x 299, bicubic with antialiasing", "clean-fid"),
    "inception-jit": ("299 x 299, bicubic with antialiasing", "clean-fid"),
    "inception-tf": ("299 x 299, TensorFlow 1's bilinear", "torch-fidelity and the first FID"),
    "dinov2": ("224 x 224, as DINOv2's", "dgm-eval (FD-DINOv2)"),
}
STREAM = 32  # pictures of an iterator at once
NAMED = 3  # pictures named in a warning


@dataclass(frozen=True)
class Number:
    """A measured number with the ends of its 95% interval, None where it has none."""

    value: float
    low: float | None
    high: float | None
    title: str
    better: str  # "lower" or "higher"


@dataclass(frozen=True)
class Given:
    """A side as it was given: what it is, how many pictures were measured and left out."""

    source: str
    pictures: int | None  # None: of statistics that do not say
    sha256: str = ""  # of mean and covariance of the features
    unreadable: int = 0
    kind: str = "pictures"  # or "statistics"


@dataclass(frozen=True)
class Scores(Mapping[str, float]):
    """What `score` measured: a mapping of names to values, printed as a table.

    `numbers` tell intervals too, `to_dict()` everything as plain JSON values, `compare_with` which
    numbers of others these can stand beside and which they cannot.
    """

    numbers: Mapping[str, Number]
    missing: Sequence[Missing]
    warnings: Sequence[str]
    compare_with: Sequence[str]
    images: Given
    reference: Given
    network: Mapping[str, Any]
    statistics: Statistics | None = field(
        default=None, repr=False, compare=False
    )  # the reference's

    def __getitem__(self, name: str) -> float:
        return self.numbers[name].value

    def __iter__(self) -> Iterator[str]:
        return iter(self.numbers)

    def __len__(self) -> int:
        return len(self.numbers)

    def __str__(self) -> str:
        """A table for a terminal, and below it what is to be known before quoting it."""
        rows = [("measure", "value", "95% interval", "better")]
        for one in self.numbers.values():
            ends = "" if one.low is None else f"[{one.low:,.4g}, {one.high:,.4g}]"
            rows.append((one.title, f"{one.value:,.5g}", ends, one.better))
        wide = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = [
            f"  {name:<{wide[0]}}  {value:>{wide[1]}}  {ends:<{wide[2]}}  {better}".rstrip()
            for name, value, ends, better in rows
        ]
        notes = [
            *(f"not measured: {one.measure}: {one.needs}" for one in self.missing),
            *(f"warning: {line}" for line in self.warnings),
            *self.compare_with,
        ]
        told = [textwrap.fill(line, 96, subsequent_indent="  ") for line in notes]
        return "\n".join([f"{_told(self.images)} against {_told(self.reference)}", *lines, *told])

    def __repr__(self) -> str:
        told = ", ".join(f"{name}={value:.6g}" for name, value in self.items())
        return f"Scores({told})"

    def to_dict(self) -> dict[str, Any]:
        """Everything but the statistics, as JSON can hold it."""
        found = asdict(replace(self, statistics=None))
        del found["statistics"]
        return found

    def save_reference(self, path: str | Path) -> Path:
        """Write mean and covariance of the reference as an .npz (pytorch-fid's form), to give in
        its place the next time. Raises UserError where the reference was such a file.
        """
        from cm3leon.evaluation.features.statistics import export_statistics

        if self.statistics is None or self.reference.kind == "statistics":
            raise UserError(f"{self.reference.source} holds statistics already; leave save out")
        return export_statistics(checked_npz(path), self.statistics)


def score(
    images: Source,
    reference: Source,
    metrics: str | Sequence[str] = DEFAULT,
    *,
    network: str | Features = "scenes",
    n: int | None = None,
    cache: str | Path | None = None,
) -> Scores:
    """Numbers of pictures against reference pictures, each with its interval where it has one.

    Args:
        images: a folder of pictures, a .zip or .tar of them, an .npz or .npy of uint8 [N, H, W, 3],
            such an array, an iterable of Pillow's pictures or arrays uint8 [H, W, 3] of any sizes,
            or a file of statistics (.npz with mu and sigma, as pytorch-fid writes it: FID alone)
        reference: likewise; what the pictures shall be like
        metrics: names of `METRICS`: fid, fid_infinity, kid, precision, recall, inception_score,
            fd_dinov2, cmmd
        network: "scenes", which is shipped, or NAME:FILE with a name of `features.network.NAMES`
            and its file of weights, or open_clip:ARCHITECTURE:FILE; without a file it is looked for
            where the libraries keep theirs. The resize is part of the name. Or what `find_network`
            loaded: with another device, or weights of another digest than the published
        n: at most so many pictures a side, chosen by a fixed seed (of an iterable: the first)
        cache: a folder in which features are kept for the next time; None keeps none

    Distances are squared (FID's units are those of the features, squared), shares lie in [0, 1].
    FID: Heusel et al. 2017 (arXiv 1706.08500), covariances with divisor N - 1; its interval is
    Student's t over what each picture moves. KID: Binkowski et al. 2018. Precision and recall:
    Kynkaanniemi et al. 2019, k = 3, at most 5,000 pictures a side.

    Raises UserError for names that are unknown, weights that are not there or others than expected,
    nothing readable on a side, fewer than two pictures, and statistics of another network.

    >>> import numpy as np
    >>> noise = np.random.default_rng(0).integers(0, 256, (24, 64, 64, 3), np.uint8)
    >>> found = score(noise[:12], noise[12:], metrics="fid")
    >>> found.numbers["fid"].low <= found["fid"] <= found.numbers["fid"].high
    True
    """
    asked = checked_metrics(metrics)
    features = find_network(network) if isinstance(network, str) else network
    if n is not None and n < 2:
        raise UserError(f"n must be at least 2, got {n}")
    fake, real = (find_side(source, n) for source in (images, reference))
    with tempfile.TemporaryDirectory(prefix="cm3leon-score.") as folder:
        home = Path(folder) if cache is None else Path(cache)
        judged = _Measured.of(fake, images, features, home)
        other = _Measured.of(real, reference, features, home)
        return _scores(asked, judged, other, features)


def checked_metrics(metrics: str | Sequence[str]) -> tuple[str, ...]:
    """The names, each once; UserError for one that is unknown, and for none."""
    asked = tuple(dict.fromkeys([metrics] if isinstance(metrics, str) else metrics))
    for name in asked:
        if name not in METRICS:
            near = did_you_mean(name, METRICS)
            raise UserError(f"unknown metric {name!r}; there are: {', '.join(METRICS)}{near}")
    if not asked:
        raise UserError(f"no metric named; there are: {', '.join(METRICS)}")
    return asked


def checked_npz(path: str | Path) -> Path:
    """The path; UserError unless it is that of an .npz."""
    if Path(path).suffix != ".npz":
        raise UserError(f"statistics are an .npz, got {path}; name it so")
    return Path(path)


def find_network(network: str, device: str = "auto", sha256: str | None = None) -> Features:
    """The feature network of NAME or NAME:FILE (`features.network.load_features`).

    `device`: "cpu", "cuda", or "auto", CUDA where there is one. `sha256`: of the weights, or its
    beginning; None: the published one; "any": not checked.
    """
    from cm3leon.evaluation.features.network import load_features
    from cm3leon.loading import checked_device

    name, colon, file = network.partition(":")
    if name == "open_clip":  # its name holds the architecture, and may hold the file
        name, colon, file = network, "", ""
    weights = Path(file).expanduser() if colon else None
    return load_features(name, checked_device(device), weights, sha256=sha256)


@dataclass(frozen=True)
class _Measured:
    """A side as features or as moments, and what is to be said of it."""

    given: Given
    side: Side | None
    statistics: Statistics
    stamps: frozenset[str] = frozenset()  # digests of whole picture files
    endings: frozenset[str] = frozenset()
    warnings: tuple[str, ...] = ()

    @classmethod
    def of(cls, found: Any, source: Source, features: Features, home: Path) -> _Measured:
        from cm3leon.evaluation.features.cache import Listing, features_of
        from cm3leon.evaluation.features.statistics import Statistics, import_statistics

        if isinstance(found, Path):
            statistics = import_statistics(found, features.dim)
            pictures = statistics.about.get("pictures")
            given = Given(str(found), pictures, _digest(statistics), kind="statistics")
            return cls(given, None, statistics, warnings=_foreign(found, statistics, features))
        if isinstance(found, Listing):
            side = features_of(found, features, home)
            label, remarks = found.label, side.remarks
            files = [stamp for stamp in found.stamps if isinstance(stamp[0], str)]
            stamps = {stamp[1] for stamp in files if Path(label).is_dir() and stamp[1]}
            endings = {Path(stamp[0]).suffix.lower() for stamp in files}
        else:
            side = Held(_streamed(found, features))
            label, remarks, stamps, endings = type(source).__name__, {}, set(), set()
        readable = int(side.readable.sum())
        if readable < 2:
            why = next(iter(side.unreadable.values()), "")
            raise UserError(f"{label} has {readable} readable pictures, 2 are the least{_so(why)}")
        mean, covariance = side.moments().finish()
        statistics = Statistics(mean, covariance, _about(label, readable, features))
        given = Given(label, readable, _digest(statistics), len(side.unreadable))
        lost, other = side.unreadable, remarks
        said = [
            f"{len(lost)} of {side.count} pictures of {label} cannot be read and are left out: "
            f"{_first(lost)}"
        ] * bool(lost)
        if other:
            modes = ", ".join(sorted(set(other.values())))
            said.append(f"{len(other)} pictures of {label} were not RGB ({modes}): converted")
        return cls(given, side, statistics, frozenset(stamps), frozenset(endings), tuple(said))


def _scores(asked: tuple[str, ...], fake: _Measured, real: _Measured, features: Features) -> Scores:
    from cm3leon.evaluation.metrics.fid import fid

    found: dict[str, Any] = {}
    missing: list[Missing] = []
    if fake.side is None:  # two sets of moments: their distance, and no more
        found["fid"] = real.statistics.distance_to(fake.statistics)
        why = "pictures, not their statistics alone"
        missing = [Missing(_measure(name).title, why) for name in asked if name != "fid"]
    else:
        sides = Sides(real.statistics, [fake.side], features, real.side)
        if "fid" in asked:
            found["fid"] = fid(sides.reference, sides.fakes).number
        wanted = {METRICS[name] for name in asked}
        skip = {*METRICS.values(), *NEED_MORE} - wanted
        more, missing = numbers(sides, skip)
        found |= more
        missing = [*missing, *_unserved(asked, found, missing, features)]
    kept = {name: _number(name, found[name]) for name in asked if name in found}
    if not kept:
        raise UserError("; ".join(f"{one.measure} needs {one.needs}" for one in missing))
    titles = {_measure(name).title for name in asked}
    return Scores(
        kept,
        [one for one in missing if one.measure in titles],
        _warnings(fake, real, features),
        _compare_with(fake, real, features),
        fake.given,
        real.given,
        _network(features),
        real.statistics,
    )


def _unserved(
    asked: Sequence[str], found: Mapping, missing: Sequence[Missing], features: Features
) -> list[Missing]:
    """What was asked for and is neither found nor told as missing: it has a network of its own."""
    import importlib

    told = {one.measure for one in missing}
    lacks = []
    for name in asked:
        if name not in found and _measure(name).title not in told:
            module = importlib.import_module(f"cm3leon.evaluation.metrics.{METRICS[name]}")
            needs = f"--network {module.NETWORK}:FILE, not {features.name}"
            lacks.append(Missing(_measure(name).title, needs))
    return lacks


def _measure(name: str) -> Measure:
    found = find_measure(name)
    assert found is not None, name
    return found[1]


def _number(name: str, found: Any) -> Number:
    value, low, high = found if isinstance(found, tuple) else (found, None, None)
    measure = _measure(name)
    low, high = (None if end is None else float(end) for end in (low, high))
    return Number(float(value), low, high, measure.title, measure.better)


def _streamed(images: Iterable[np.ndarray], features: Features) -> np.ndarray:
    """Float32 [N, D] of pictures that come one after the other; only features are held."""
    from cm3leon.evaluation.features.network import check_rows
    from cm3leon.progress import progress

    rows, batch = [np.zeros((0, features.dim), np.float32)], []

    def flush() -> None:
        if batch:
            rows.append(features.rows(batch))
            bar.update(len(batch))
            batch.clear()

    with progress(None, "features") as bar:
        for image in images:
            batch.append(image)
            if len(batch) == STREAM:
                flush()
        flush()
    return check_rows(np.concatenate(rows), features, "the pictures")


def _about(label: str, pictures: int, features: Features) -> dict[str, Any]:
    """What a file of statistics says of itself."""
    return {"pictures": pictures, **_network(features), "label": Path(label).name}


def _digest(statistics: Statistics) -> str:
    return joined([statistics.mu.tobytes(), statistics.sigma.tobytes()])


def _network(features: Features) -> dict[str, Any]:
    resize = RESIZES.get(features.name, ("its own", ""))[0]
    said = {"features": features.name, "features_sha256": features.digest}
    return said | {"dim": features.dim, "resize": resize}


def _foreign(path: Path, statistics: Statistics, features: Features) -> tuple[str, ...]:
    """What is to be said of imported statistics; UserError where they are of other weights."""
    about = statistics.about
    if not about:
        return (f"{path} does not say which network, resize and pictures it is of",)
    for key, mine in (("features", features.name), ("features_sha256", features.digest)):
        if about.get(key, mine) != mine:
            raise UserError(
                f"{path} is of {key} {str(about[key])[:16]}, not {mine[:16]}; give the same "
                "--network, or make the statistics again"
            )
    return ()


def _warnings(fake: _Measured, real: _Measured, features: Features) -> list[str]:
    said = [*fake.warnings, *real.warnings]
    counts = [one.given.pictures for one in (fake, real) if one.given.pictures is not None]
    if counts and min(counts) <= features.dim:
        said.append(
            f"n={min(counts):,} is not above the {features.dim:,} features: FID is too high, by "
            "how much depends on n; take KID, or more pictures"
        )
    if both := len(fake.stamps & real.stamps):
        said.append(f"{both:,} picture files are on both sides: the distance is too low")
    jpeg = {".jpg", ".jpeg"}
    lossy = [bool(one.endings & jpeg) for one in (fake, real)]
    if fake.endings and real.endings and lossy[0] != lossy[1]:
        said.append("one side is JPEG, the other not: its artefacts move the distance")
    if features.name == "scenes":
        said.append(
            "the network knows the embedded world alone; of photographs its numbers say little "
            "(--network inception-clean:FILE)"
        )
    return [*said, features.warning] if features.warning else said


def _compare_with(fake: _Measured, real: _Measured, features: Features) -> list[str]:
    """Whose numbers these may stand beside, and what a distance of real pictures would be."""
    resize, whose = RESIZES.get(features.name, ("its own", ""))
    known = whose and _published(features)
    said = [f"network {features.name} (sha256 {features.digest[:12]}), resize: {resize}"]
    if known:
        said.append(
            f"compares with {whose}'s numbers on the same reference and n; not with another resize "
            "or network"
        )
    else:
        said.append("compares with numbers of this very network alone, and with nothing published")
    n, m = fake.given.pictures, real.given.pictures
    if n is not None:
        told = f"{m:,}" if m is not None else "an unknown number of"
        said.append(f"n = {n:,} against {told} reference pictures; FID falls with n: compare at it")
    if real.side is not None and n is not None and (found := floor(real.side, n)) is not None:
        value, size, others = found
        said.append(
            f"floor: {size:,} of the reference pictures against the other {others:,} have FID "
            f"{value:.4g}"
        )
    return said


def floor(real: Side, n: int) -> tuple[float, int, int] | None:
    """FID of n real pictures (half of them, if n is more) against the others: (value, n, others).

    None for fewer than four pictures.
    """
    from cm3leon.evaluation.statistics.frechet import frechet_distance

    places = np.flatnonzero(real.readable)
    if len(places) < 4:
        return None
    size = max(2, min(n, len(places) // 2))
    mixed = generator(0, "score", "floor", len(places)).permutation(len(places))
    marks = []
    for part in (mixed[:size], mixed[size:]):
        marked = np.zeros(real.count, bool)
        marked[places[part]] = True
        marks.append(real.moments(marked).finish())
    (mu_a, sigma_a), (mu_b, sigma_b) = marks
    value = frechet_distance(mu_a, sigma_a, mu_b, sigma_b, check=False)
    return value, size, len(places) - size


def _published(features: Features) -> bool:
    from cm3leon.interop.known_weights import KNOWN

    name = "inception" if features.name in ("inception-clean", "inception-tf") else features.name
    return (
        name in KNOWN
        and bool(KNOWN[name].sha256)
        and features.digest.startswith(KNOWN[name].sha256)
    )


def _told(given: Given) -> str:
    count = "" if given.pictures is None else f" ({given.pictures:,} pictures)"
    return f"{given.source}{count}"


def _first(reasons: Mapping[int, str]) -> str:
    shown = [reasons[place].split(";")[0] for place in sorted(reasons)[:NAMED]]
    return "; ".join(shown)


def _so(why: str) -> str:
    return f"; the first fault: {why}" if why else "; add pictures"
