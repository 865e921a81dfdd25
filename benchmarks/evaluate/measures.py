"""What stands beside a pinned FID, from features on disk: of its own network, and of others named.

    KID, precision, recall, Inception score      the features that FID has already
    floor                                        real pictures without prompts, against those with
    rFID                                         reference pictures through the system's tokenizer
    FD-DINOv2, CMMD, CLIP score                  networks of their own: --dino-weights,
                                                 --cmmd-weights, --clip-weights, or the variables
                                                 that `cm3leon doctor` names

What is not measured is named with the file or option that it needs. A network that is
not the usual one of a number gives the number another name.

Shapes: N pictures, K sets (one a sampling seed), D features.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from benchmarks.harness import core
from benchmarks.harness.sharding import Group
from benchmarks.images.generated import safe
from benchmarks.images.listings import rebuilt_listing
from benchmarks.protocols.coco import Protocol
from benchmarks.protocols.coco_files import PinnedTask
from cm3leon.errors import UserError
from cm3leon.evaluation.features.cache import Kept, features_of
from cm3leon.evaluation.features.network import Features, load_features
from cm3leon.evaluation.features.statistics import Statistics
from cm3leon.evaluation.measures import Missing
from cm3leon.interop.known_weights import KNOWN, find
from cm3leon.seeds import generator

KID_ROWS = 5_000  # pictures a side that KID's subsets are taken from
COVER_ROWS = 5_000  # pictures a side of precision and recall: they fall with fewer
CMMD_ROWS = 30_000  # pictures a side
RFID_PICTURES = 5_000  # reference pictures that go through the image tokenizer
SPLITS = 10  # parts of the Inception score
NEIGHBOUR = 3  # of precision and recall
LEAST = 4  # pictures a side, below which there is neither an interval nor a KID
TOWER = "open_clip:"


@dataclass(frozen=True)
class Beside:
    """A number that needs a network of its own."""

    key: str  # in the record
    title: str
    option: str  # of the job: FILE, or NETWORK:FILE
    network: str  # a name of `features.load_features`
    file: str  # as it is published
    known: str | None = None  # key of `known_weights.KNOWN`


BESIDE = (
    Beside(
        "fd_dinov2", "FD-DINOv2", "dino_weights", "dinov2", "dinov2_vitl14_pretrain.pth", "dinov2"
    ),
    Beside(
        "cmmd", "CMMD", "cmmd_weights", f"{TOWER}ViT-L-14-336-quickgelu", "ViT-L-14-336px.pt",
        "clip-openai-l14-336",
    ),
    Beside(
        "clip_score", "CLIP score", "clip_weights", f"{TOWER}ViT-B-32-quickgelu", "ViT-B-32.pt",
        "clip-openai",
    ),
)  # fmt: skip


@dataclass(frozen=True)
class Named:
    """Such a number with the weights that were named for it."""

    beside: Beside
    network: str
    path: Path

    @property
    def key(self) -> str:
        """The number's name: another network, another name."""
        return self.key_of("")

    def key_of(self, form: str) -> str:
        """The name of one of its forms."""
        other = f"_{safe(self.network.removeprefix(TOWER))}"
        return f"{self.beside.key}{form}{'' if self.network == self.beside.network else other}"

    def load(self, device: str, sha256: str | None) -> Features:
        """The network; UserError names the option of a file that is not it."""
        given = {"sha256": sha256} if sha256 else {}
        try:
            return load_features(self.network, device, self.path, **given)
        except UserError as error:
            raise UserError(f"{option_of(self.beside)}: {error}") from None


@dataclass
class Taken:
    """Features of such a network: real (None where not asked for), and one `Kept` a set."""

    named: Named
    features: Features
    real: Kept | None
    fakes: list[Kept] = field(default_factory=list)


def option_of(beside: Beside) -> str:
    """`--dino-weights` and its kin."""
    return f"--{beside.option.replace('_', '-')}"


def find_named(beside: Beside, given: str | None) -> Named | None:
    """The weights that an option or an environment variable names; None for neither."""
    if given is None:
        if beside.known is None or not os.environ.get(KNOWN[beside.known].variable):
            return None
        return Named(beside, beside.network, find(beside.known))
    head, colon, file = given.partition(":")
    if not colon or Path(given).exists():
        return Named(beside, beside.network, Path(given))
    tower = beside.network.startswith(TOWER)
    return Named(beside, f"{TOWER}{head}" if tower else head, Path(file))


def lacking(beside: Beside) -> Missing:
    """How a number would have been measured."""
    variable = f" or {KNOWN[beside.known].variable}" if beside.known else ""
    return Missing(beside.title, f"{beside.file} by {option_of(beside)}{variable}")


# of the features that FID has


def intervals(
    headline: Statistics, fakes: Sequence[Kept], per_seed: Sequence[float]
) -> dict[str, core.Interval | None]:
    """Intervals of the mean over sets (`stats.frechet_spread`, from features on disk)."""
    from cm3leon.evaluation.statistics.intervals import FRECHET_METHOD, SEEDS_METHOD, spread_of

    if fakes[0].count < LEAST:
        return {"images": None, "seeds": None, "both": None}
    moved_KN = np.stack([influence_of(headline, fake) for fake in fakes])
    methods = {"images": FRECHET_METHOD, "seeds": SEEDS_METHOD, "both": FRECHET_METHOD}
    return {
        name: None if ends is None else core.Interval(*ends, 0.95, methods[name])
        for name, ends in spread_of(per_seed, moved_KN).items()
    }


def influence_of(headline: Statistics, fake: Kept) -> np.ndarray:
    """How much each drawn picture moves the distance (`stats.frechet_influence`): float64 [N]."""
    from cm3leon.evaluation.statistics.frechet import influence

    moved = influence(headline.mu, headline.sigma, *fake.moments().finish())
    found = np.concatenate([moved(one.features_BD) for one in fake.shards()])
    return found - found.mean()


def chosen(kept: Kept, rows: int = KID_ROWS, among: np.ndarray | None = None) -> np.ndarray:
    """Bool [N]: at most so many readable places, of those that `among` marks."""
    places = np.flatnonzero(kept.readable if among is None else kept.readable & among)
    mixed = generator(0, "kid", "places", len(places)).permutation(len(places))[:rows]
    marked = np.zeros(kept.count, bool)
    marked[places[mixed]] = True
    return marked


def kernel_distance(real: Kept, fakes: Sequence[Kept]) -> dict[str, float]:
    """KID of at most 5,000 pictures a side, mean over seeds; its deviation is that of a subset."""
    from cm3leon.evaluation.metrics.kid import kid

    rows_MD = real.rows(chosen(real))
    if min(len(rows_MD), fakes[0].count) < LEAST:
        return {}
    found = [kid(rows_MD, fake.rows(chosen(fake))) for fake in fakes]
    mean, deviation = np.mean(found, axis=0)
    return {"kid": float(mean), "kid_std": float(deviation)}


def coverage(real: Kept, fakes: Sequence[Kept]) -> dict[str, tuple]:
    """Precision and recall of at most 5,000 pictures a side, mean over seeds.

    Intervals are Wilson's for the pictures that are asked whether they are covered; what covers
    them stays as it is.
    """
    from cm3leon.evaluation.metrics.precision_recall import precision_recall
    from cm3leon.evaluation.statistics.intervals import binomial_interval

    real_ND = real.rows(chosen(real, COVER_ROWS))
    rows = [fake.rows(chosen(fake, COVER_ROWS)) for fake in fakes]
    if min(len(real_ND), len(rows[0])) <= NEIGHBOUR:
        return {}
    shares = np.mean([precision_recall(real_ND, fake_MD, NEIGHBOUR) for fake_MD in rows], axis=0)
    counts = {"precision": len(rows[0]), "recall": len(real_ND)}
    return {
        name: (float(share), *binomial_interval(round(share * count), count))
        for (name, count), share in zip(counts.items(), shares, strict=True)
    }


def class_score(features: Features, fakes: Sequence[Kept]) -> dict[str, tuple]:
    """Inception score: the mean over ten parts (of the first prompts, the next, ...), over seeds.

    Its interval is Student's t over the parts. The parts are read one by one: memory does not grow.
    """
    from cm3leon.evaluation.metrics.inception_score import inception_score, parts
    from cm3leon.evaluation.statistics.intervals import mean_interval

    count = fakes[0].count
    splits = min(SPLITS, count // 2)
    if features.logits is None or splits < 2:
        return {}

    def score(fake: Kept, part: slice) -> float:
        marked = np.zeros(count, bool)
        marked[part] = True
        return inception_score(features.logits(fake.rows(marked)), 1)[0]

    cut = parts(count, splits)
    scores_P = np.mean([[score(fake, part) for part in cut] for fake in fakes], axis=0)
    return {"inception_score": (float(scores_P.mean()), *mean_interval(scores_P))}


def floor(real: Kept, own_N: np.ndarray) -> dict[str, float]:
    """Distance of the real pictures that no prompt is of to those of the prompts."""
    others, own = real.moments(~own_N), real.moments(own_N)
    if min(others.n, own.n) < 2:
        return {}
    return {"floor": Statistics(*own.finish(), {}).distance(*others.finish())}


def rebuild(
    protocol: Protocol,
    task: PinnedTask,
    vq,
    features: Features,
    real: Kept | None,
    home: Path,
    group: Group,
) -> tuple[np.ndarray, Kept] | None:
    """Which reference pictures went through an image tokenizer (bool [N]), and the features of what
    came back, computed by all ranks; None without tokenizer or pictures."""
    if vq is None or real is None:
        return None
    among = np.ones(real.count, bool) if "all" in protocol.references else task.own_N
    places = np.flatnonzero(among)[:RFID_PICTURES]
    marked = np.zeros(real.count, bool)
    marked[places] = True
    listing = rebuilt_listing(protocol, [task.entries[place] for place in places], vq)
    return marked, features_of(listing, features, home, group)


def scale(
    own_N: np.ndarray,
    features: Features,
    real: Kept | None,
    fakes: Sequence[Kept],
    rebuilt: tuple[np.ndarray, Kept] | None,
) -> dict:
    """What else FID's own features tell: Inception score, precision, recall, floor, rFID."""
    from cm3leon.evaluation.statistics.frechet import frechet_from_features

    found = class_score(features, fakes)
    if real is not None:
        found |= coverage(real, fakes) | floor(real, own_N)
    if rebuilt is not None:
        marked, back = rebuilt
        rows_ND, back_ND = real.rows(marked), back.rows(np.ones(back.count, bool))
        if len(rows_ND) >= 2:
            found["rfid"] = frechet_from_features(rows_ND, back_ND)
    return found


# of other networks


def frechet_beside(taken: Taken, among: np.ndarray | None) -> dict[str, object]:
    """Fréchet distance of another network's features, with its interval."""
    headline = Statistics(*taken.real.moments(among).finish(), {})
    per_seed = [headline.distance(*fake.moments().finish()) for fake in taken.fakes]
    ends = intervals(headline, taken.fakes, per_seed)["both"]
    value = float(np.mean(per_seed))
    return {taken.named.key: value if ends is None else (value, ends.low, ends.high)}


def kernel_beside(taken: Taken, among: np.ndarray | None) -> dict[str, object]:
    """CMMD of at most 30,000 pictures a side, mean over seeds."""
    from cm3leon.evaluation.metrics.cmmd import cmmd

    real_ND = taken.real.rows(chosen(taken.real, CMMD_ROWS, among))
    found = [cmmd(real_ND, fake.rows(chosen(fake, CMMD_ROWS))) for fake in taken.fakes]
    return {taken.named.key: float(np.mean(found))}


def text_beside(taken: Taken, captions: Sequence[str]) -> tuple[dict[str, object], list[str]]:
    """CLIP score in both forms, mean over seeds; intervals are Student's t over the prompts."""
    from cm3leon.evaluation.features.towers import load_tower
    from cm3leon.evaluation.metrics.clip_score import PREFIX, WEIGHT, cosines, full_share
    from cm3leon.evaluation.statistics.intervals import mean_interval

    clip = load_tower(taken.named.network.removeprefix(TOWER), taken.named.path)
    texts = [PREFIX + caption for caption in captions]
    texts_ND, everything = clip.texts(texts), np.ones(len(texts), bool)
    full = full_share(clip.words(texts))
    cosine_KN = np.array([cosines(fake.rows(everything), texts_ND) for fake in taken.fakes])
    found = {}
    for form, scores_KN in (("", cosine_KN), ("_s", WEIGHT * cosine_KN.clip(0))):
        scores_N = scores_KN.mean(0)
        ends = mean_interval(scores_N) if len(scores_N) > 1 else (None, None)
        found[taken.named.key_of(form)] = {
            "value": float(scores_N.mean()),
            "low": ends[0],
            "high": ends[1],
        }
    said = [f"{full:.1%} of the captions filled CLIP's {clip.words(['a']).shape[1]} tokens"]
    return found, said if full else []


def numbers_beside(
    takens: Sequence[Taken], among: np.ndarray | None, captions: Sequence[str]
) -> tuple[dict[str, object], dict[str, str], list[str]]:
    """The numbers of all networks named, number -> its network, and what is to be said of them."""
    ways = {"fd_dinov2": frechet_beside, "cmmd": kernel_beside}
    found, by, said = {}, {}, []
    for taken in takens:
        named = taken.named
        if named.beside.key in ways:
            numbers = ways[named.beside.key](taken, among)
        else:
            numbers, remarks = text_beside(taken, captions)
            said += remarks
        weights = f"{named.path.name}, SHA-256 {taken.features.digest[:12]}"
        found, by = (
            found | numbers,
            by | dict.fromkeys(numbers, f"{taken.features.name} ({weights})"),
        )
    return found, by, said


def missing(extra: Mapping, real: bool, features: Features, tokenizer: bool) -> list[Missing]:
    """What each number of FID's own features needs that there is none of."""
    pictures = "the real pictures, not --reference alone" if not real else "more pictures"
    needs = {
        "kid": ("KID", pictures),
        "precision": ("precision and recall", pictures),
        "inception_score": (
            "Inception score",
            "more pictures" if features.logits else f"a network with classes, not {features.name}",
        ),
        "floor": ("floor", "real pictures without a prompt" if real else pictures),
        "rfid": ("rFID", pictures if tokenizer else "a system with an image tokenizer"),
    }
    return [Missing(*told) for key, told in needs.items() if key not in extra]
