"""What every number of a record is: its title, its unit, and which way is better. One table.

    find_measure("natural.documents2.kid")           KID: lower is better
    find_measure("test.documents-2.fid_vs_random")   a lead over another condition: higher is better

A number's name ends in the name of its measure, after a dot; what stands before says of what it is
(split, part, condition). `A_minus_B`, `A_vs_B`, `A_over_B` and `A_with_B` are of measure A.
The standard library alone: reports read this without torch.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache

LOWER, HIGHER, NONE = "lower", "higher", "none"


@dataclass(frozen=True)
class Measure:
    """A kind of number; in `name` one `*` stands for what differs between its numbers.

    `unit` is empty for plain numbers, such as distances. `better` is "none" for numbers that say
    nothing of a system's worth: those of the protocol, such as a floor, counts and settings.
    `module` is the file of `metrics/` that takes it of any features (`sides.numbers`).
    """

    name: str
    title: str
    unit: str
    better: str
    module: str = ""

    def __post_init__(self):
        if self.better not in (LOWER, HIGHER, NONE):
            raise ValueError(f"{self.name}: better is lower, higher or none, got {self.better!r}")


@dataclass(frozen=True)
class Missing:
    """A number that a record lacks, by title, and what would have to be there to measure it."""

    measure: str
    needs: str


MEASURES = (
    # distances of what was drawn to real pictures
    Measure("fid", "FID", "", LOWER),
    Measure("fid_own", "FID against the captions' own pictures", "", LOWER),
    Measure("fid_prompts", "FID against the prompts' pictures", "", LOWER),
    Measure("fid_imported", "FID against imported statistics", "", LOWER),
    Measure("fid_all", "FID against all pictures", "", LOWER),
    Measure("fid_at_*", "FID by number of pictures", "", LOWER, "fid"),
    Measure("fid_infinity", "FID at infinitely many pictures", "", LOWER, "fid"),
    Measure("fid_ratio", "FID over the twin's", "ratio", LOWER),
    Measure("kid", "KID", "", LOWER, "kid"),
    Measure("kid_std", "deviation of KID over subsets", "", NONE, "kid"),
    Measure("fd_dinov2", "FD-DINOv2", "", LOWER, "fd_dinov2"),
    Measure("fd_dinov2_*", "FD-DINOv2", "", LOWER),
    Measure("cmmd", "CMMD", "", LOWER, "cmmd"),
    Measure("cmmd_*", "CMMD", "", LOWER),
    # the scale of these distances: of the protocol, not of the system
    Measure("floor", "real against real (floor)", "", NONE),
    Measure("rfid", "reconstructions (rFID)", "", NONE),
    Measure("rfid_own", "reconstructions against the captions' own pictures", "", NONE),
    Measure("ceiling", "noise (ceiling)", "", NONE),
    Measure("ceiling_own", "noise against the captions' own pictures", "", NONE),
    Measure("in_training", "pictures of the split that the training has too", "share", NONE),
    # quality, diversity, nearness to the caption
    Measure("precision", "precision", "share", HIGHER, "precision_recall"),
    Measure("recall", "recall", "share", HIGHER, "precision_recall"),
    Measure("inception_score", "Inception score", "", HIGHER, "inception_score"),
    Measure("inception_score_*", "Inception score", "", HIGHER),
    Measure("clip_score", "CLIP score, plain cosine", "cosine", HIGHER, "clip_score"),
    Measure("clip_score_s", "CLIP score, 2.5 max(0, cosine)", "", HIGHER, "clip_score"),
    Measure("clip_score_s_*", "CLIP score, 2.5 max(0, cosine)", "", HIGHER),
    Measure("clip_score_*", "CLIP score, plain cosine", "cosine", HIGHER),
    Measure("clip", "CLIP score", "cosine", HIGHER),
    Measure("apart", "distance of two drawings of a caption", "", NONE),
    # what a picture shows of what its caption claims, and how it is made
    Measure("single", "single object", "share", HIGHER, "composition"),
    Measure("two", "two objects", "share", HIGHER, "composition"),
    Measure("counting", "counting", "share", HIGHER, "composition"),
    Measure("colors", "colours", "share", HIGHER, "composition"),
    Measure("position", "position", "share", HIGHER, "composition"),
    Measure("attribution", "colour attribution", "share", HIGHER, "composition"),
    Measure("overall", "overall (mean of six)", "share", HIGHER, "composition"),
    Measure("composition", "composition", "share", HIGHER),
    Measure("right", "composition", "share", HIGHER),
    Measure("entity", "entity", "share", HIGHER, "composition"),
    Measure("entity_unseen", "entity never seen in training", "share", HIGHER, "composition"),
    Measure("size", "size", "share", HIGHER, "composition"),
    Measure("pattern", "pattern", "share", HIGHER, "composition"),
    Measure("place", "place", "share", HIGHER, "composition"),
    Measure("all", "everything claimed", "share", HIGHER, "composition"),
    Measure("impossible", "impossible drawings", "share", LOWER, "impossible"),
    Measure("copy_pixels", "copies of documents, by pixels", "share", LOWER),
    Measure("copy_features", "copies of documents, by features", "share", LOWER),
    Measure("copy_blocks", "copies of documents, by blocks of codes", "share", LOWER),
    # captions and infilled text
    Measure("cider", "CIDEr-D", "", HIGHER),
    Measure("bleu4", "BLEU-4", "", HIGHER),
    Measure("true", "all claims true", "share", HIGHER),
    Measure("exact", "true and complete", "share", HIGHER),
    Measure("words", "length of a caption", "words", NONE),
    Measure("infilled", "hidden words back", "share", HIGHER),
    Measure("infilled_true", "infilled, all claims true", "share", HIGHER),
    Measure("rouge_l", "ROUGE-L", "", HIGHER),
    # tasks (`evaluation/tasks`)
    Measure("exact_match", "answers right", "share", HIGHER),
    Measure("vqa_accuracy", "VQA accuracy", "share", HIGHER),
    Measure("scienceqa", "choices right", "share", HIGHER),
    Measure("ndcg", "NDCG", "", HIGHER),
    Measure("edit_exact", "edits made and nothing else changed", "share", HIGHER),
    Measure("background_psnr", "PSNR of what was to stay", "dB", HIGHER),
    Measure("l1", "L1 to the true edit", "", LOWER),
    Measure("l2", "L2 to the true edit", "", LOWER),
    Measure("clip_direction", "CLIP direction similarity", "cosine", HIGHER),
    Measure("clip_image", "CLIP similarity to the picture before", "cosine", HIGHER),
    Measure("miou", "mIoU of the condition", "share", HIGHER),
    Measure("pixel_accuracy", "blocks of the condition right", "share", HIGHER),
    Measure("edge_f1", "F1 of the condition", "share", HIGHER),
    Measure("ms_ssim", "MS-SSIM of the condition", "", HIGHER),
    Measure("depth_rmse", "RMSE of depth", "grey levels", LOWER),
    Measure("oks", "OKS", "", HIGHER),
    Measure("ap", "AP of the boxes", "share", HIGHER),
    Measure("ap50", "AP50 of the boxes", "share", HIGHER),
    Measure("iou_recall", "boxes that are filled", "share", HIGHER),
    Measure("letters_right", "letters right", "share", HIGHER),
    Measure("sign_right", "signs right", "share", HIGHER),
    Measure("edit_distance", "edit distance of signs", "letters", LOWER),
    Measure("judged", "judge's score", "", HIGHER),
    Measure("refused", "refused by the judge", "", NONE),
    Measure("unparsed", "judgements not readable", "", NONE),
    # training
    Measure("held_out_gain", "nats saved by documents", "nats", HIGHER),
    Measure("held_out_tail_gain", "nats saved by documents on entities", "nats", HIGHER),
    Measure("held_out_loss", "held-out loss", "nats", LOWER),
    Measure("held_out_*", "held-out loss", "nats", LOWER),
    Measure("queries", "queries of the training", "", NONE),
    Measure("tokens", "tokens", "", NONE),
    Measure("flops", "FLOPs of the training", "FLOP", NONE),
    # sweeps of sizes and budgets
    Measure("parameters", "parameters", "", NONE),
    Measure("blocks", "parameters of the blocks", "", NONE),
    Measure("steps", "steps", "", NONE),
    Measure("seconds", "seconds of training", "s", NONE),
    Measure("budget", "budget", "FLOP", NONE),
    Measure("chinchilla_*", "Chinchilla's law", "", NONE),
    Measure("loss_exponent*", "exponent of loss by compute", "", HIGHER),
    Measure("size_exponent*", "exponent of the best size by compute", "", NONE),
    Measure("valley_*", "size of least loss", "parameters", NONE),
    Measure("left_out_error", "error on sizes left out", "share", LOWER),
    Measure("retrieval_*", "law with retrieval", "", NONE),
    # ablations
    Measure("gain", "FID before more samples over after", "ratio", HIGHER),
    Measure("best_weight", "best guidance weight", "", NONE),
    Measure("steps_from_*", "steps of the grid from another's best weight", "steps", NONE),
    Measure("guidance", "guidance weight", "", NONE),
    Measure("temperature", "temperature", "", NONE),
    Measure("seconds_per_1000_lookups", "a thousand look-ups", "s", LOWER),
    Measure("highest_image_score", "highest score of a document", "cosine", NONE),
    Measure("near_duplicate_share", "captions with a near duplicate", "share", NONE),
    # this project's tests
    Measure("killed.*", "changes of the code that the tests notice", "share", HIGHER),
    Measure("silent", "cases silently wrong", "cases", LOWER),
    Measure("raised", "cases with a traceback", "cases", LOWER),
    Measure("lost", "cases with a lost result", "cases", LOWER),
    Measure("hung", "cases that hung", "cases", LOWER),
    Measure("held", "cases that held", "cases", NONE),
    Measure("skipped", "cases that this machine cannot make", "cases", NONE),
    # an image tokenizer
    Measure("psnr", "PSNR", "dB", HIGHER),
    Measure("ssim", "SSIM", "", HIGHER),
    Measure("codes_used", "codes used", "share", HIGHER),
    Measure("perplexity", "perplexity of the codes", "codes", HIGHER),
    # speed; a peer timed beside gives its name to the end
    Measure("seconds_per_image*", "seconds an image", "s", LOWER),
    Measure("seconds_per_batch*", "seconds a batch", "s", LOWER),
    Measure("images_per_s*", "images a second", "1/s", HIGHER),
    Measure("tokens_per_s*", "tokens a second", "1/s", HIGHER),
    Measure("decode_ms*", "a step", "ms", LOWER),
    Measure("decode_tokens_per_s*", "tokens a second of steps alone", "1/s", HIGHER),
    Measure("roofline_share*", "share of the roofline", "share", HIGHER),
    Measure("first_call_s*", "first call", "s", LOWER),
    Measure("peak_memory_gib", "peak memory", "GiB", LOWER),
    Measure("gain_over_*", "times as fast as", "ratio", HIGHER),
    Measure("over_*", "times as fast as", "ratio", HIGHER),
    Measure("mfu", "6 N D over the maker's peak (MFU)", "share", HIGHER),
    Measure("peak_share", "share of the processor's peak", "share", HIGHER),
    Measure("rounds", "rounds", "", NONE),
    Measure("load_of_others", "load of other processes", "cores", NONE),
    Measure("ideal_memory_ms", "a step by memory alone", "ms", NONE),
    Measure("ideal_compute_ms", "a step by arithmetic alone", "ms", NONE),
    Measure("read_gb_per_s.*", "reads from memory", "GB/s", NONE),
    Measure("gflop_per_s.*", "matrix products", "GFLOP/s", NONE),
    Measure("peak_gflop_per_s.*", "matrix products", "GFLOP/s", NONE),
    Measure("*_pictures_per_s", "pictures a second", "1/s", HIGHER),
    Measure("*_error", "largest relative error", "", LOWER),
    Measure("*_to_best_wall", "share of the fastest form", "ratio", HIGHER),
    Measure("*_to_best_cpu", "share of the fastest form, processor time", "ratio", HIGHER),
)


def find_measure(number: str, among: Iterable[Measure] = MEASURES) -> tuple[str, Measure] | None:
    """The end of a number's name that says what it measures, and that measure; None for neither."""
    among = tuple(among)
    for end in ends_of(number):
        if (found := _named(end, among)) is not None:
            return end, found
    return None


def ends_of(number: str) -> Iterator[str]:
    """What follows each dot of a name, the shortest first, then the whole: a condition's name may
    hold a dot (`fid_vs_threshold-0.8`).
    """
    parts = number.split(".")
    for start in reversed(range(len(parts))):
        yield ".".join(parts[start:])


def declared(numbers: Iterable[str], own: Iterable[Measure] = ()) -> dict[str, dict[str, str]]:
    """End of a name -> {title, unit, better} for numbers of these names, as a record keeps them.

    A number of no measure, neither of the table nor of `own`, is declared by its last part: better
    in no direction.
    """
    found = {}
    for number in numbers:
        end, measure = find_measure(number, (*own, *MEASURES)) or _unknown(number)
        found[end] = {key: getattr(measure, key) for key in ("title", "unit", "better")}
    return found


def undeclared(numbers: Iterable[str], own: Iterable[Measure] = ()) -> list[str]:
    """Numbers of which no table knows what they are."""
    return [one for one in numbers if find_measure(one, (*own, *MEASURES)) is None]


def of_number(number: str, measures: Mapping[str, Mapping[str, str]]) -> Measure | None:
    """The measure of a number, by what a record declares."""
    for end in reversed([*ends_of(number)]):
        if end in measures:
            return Measure(end, *(measures[end][key] for key in ("title", "unit", "better")))
    return None


@cache
def _named(end: str, among: tuple[Measure, ...]) -> Measure | None:
    for measure in among:
        if measure.name == end:
            return measure
    for measure in among:
        before, star, after = measure.name.partition("*")
        if not (star and end.startswith(before) and end.endswith(after)):
            continue
        rest = end.removeprefix(before).removesuffix(after).strip("_")
        if not any(word in rest for word in DERIVED):
            title = f"{measure.title} ({rest})" if rest else measure.title
            return replace(measure, name=end, title=title)
    for word, make in DERIVED.items():
        first, found, other = end.partition(word)
        if found and (base := _named(first, among)) is not None:
            return make(replace(base, name=end), other)
    return None


def _lead(base: Measure, other: str) -> Measure:
    """What one is ahead of another by: a quotient of distances or ratios, else a difference."""
    quotient = base.better == LOWER or base.unit == "ratio"
    better = NONE if base.better == NONE else HIGHER
    unit = "ratio" if quotient else base.unit
    return replace(base, title=f"{base.title}: lead over {other}", unit=unit, better=better)


DERIVED = {
    "_minus_": lambda base, other: replace(base, title=f"{base.title}, less that of {other}"),
    "_vs_": _lead,
    "_over_": lambda base, other: replace(base, title=f"{base.title} over {other}", unit="ratio"),
    "_with_": lambda base, count: replace(base, title=f"{base.title}, {count} documents"),
}


def _unknown(number: str) -> tuple[str, Measure]:
    end = number.rpartition(".")[2]
    return end, Measure(end, end, "", NONE)
