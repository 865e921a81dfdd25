"""The CM3 objective: spans of a row move behind its end, each after its sentinel (section 2.2).

`[.. span ..]` becomes `[.. <mask:0> ..] <mask:0> span <eom>`: next-token loss on such rows trains
infilling beside generation. What the paper leaves open is an option of `config.ObjectiveConfig`.

Shapes: T tokens of one row (a sample, or several packed ones, with any padding at its end).
Terms: a *segment* is a maximal run without <eos>, <break> and <pad>; a *span* is half-open.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Iterable, Sequence

import numpy as np

from cm3leon.config import ObjectiveConfig
from cm3leon.errors import UserError
from cm3leon.sequence.documents import Vocabulary

Span = tuple[int, int]
DEFAULT = ObjectiveConfig()
REDRAWS = 16  # times an intersecting span is drawn again before it is given up


def draw_spans(
    ids: np.ndarray,
    vocabulary: Vocabulary,
    config: ObjectiveConfig,
    generator: np.random.Generator,
) -> list[Span]:
    """Spans to mask in a row int [T]: sorted, disjoint, not empty, without <eos>, <break>, <pad>.

    n ~ clamp(Poisson(rate), fewest, min(most, sentinels)) spans (A13); n = 0 leaves the row causal.
    With probability p_full they are n whole segments, drawn uniformly without replacement (all,
    when the row has fewer). Otherwise, by `config.spans` (A14):
    - "segment": a segment drawn uniformly, then two different cut points in it drawn uniformly; a
      span that meets an earlier one is drawn again, at most 16 times, then given up.
    - "block", the public code's recipe: end points uniform over the whole row, then the span is cut
      down to the segment with which it overlaps most. Up to n^2 candidates for n spans; empty ones
      are dropped, so even `fewest` spans are not promised.
    With `cross_break` the stretch between two <eos> takes the segment's place in both, so that
    spans other than whole segments may hold <break> (the original CM3); never <eos> (A15).
    """
    ids = np.asarray(ids)
    return _draw(ids, _runs(ids, vocabulary, False), vocabulary, config, generator)


def rotate(
    ids: np.ndarray,
    spans: Sequence[Span],
    vocabulary: Vocabulary,
    config: ObjectiveConfig | None = None,
    places: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Move n spans of a row int [T] behind it: ids int64 and loss weights float32, both [T + 3n].

    Span i, in order of position, is replaced by <mask:i>; `<mask:i> span <eom>` for each i follow
    the row, before any padding at its end. weights[t] is the weight of *predicting* ids[t]:
    - 0 at position 0, which nothing predicts, and for <pad>;
    - `document_weight` for all before a sample's last document, its query (A18), else 1; a moved
      token keeps the weight of the place it came from, and <eom> has that of its span's start;
    - a sentinel's is that of its span's start times `sentinel_weight`, in the row and in the tail
      alike (A17): CM3 gives mask tokens 0, as the place of a mask carries no information, and
      the sentinel that opens a tail span follows from what stands before it.
    With `places`, float32 [T], these are the weights of the row's tokens where they stand, instead
    of 1 and `document_weight`. Raises UserError for spans that are empty, out of order or outside
    the row, for more spans than sentinels, and for rows that are rotated already.
    """
    config = config or DEFAULT
    ids = np.asarray(ids, dtype=np.int64)
    end = _end(ids, vocabulary)
    _check_spans(ids, spans, end, vocabulary)
    if places is None:
        places = _place_weights(ids, end, vocabulary, config)
    return _rotate(ids, spans, end, vocabulary, config, places.copy())


def unrotate(ids: np.ndarray, vocabulary: Vocabulary) -> np.ndarray:
    """The row before `rotate`, int64 [T]: the exact inverse for any spans; a causal row comes back.

    Raises UserError naming position and id when sentinels and <eom> do not fit together.
    """
    ids = np.asarray(ids, dtype=np.int64)
    end = _end(ids, vocabulary)
    places = np.flatnonzero(vocabulary.is_mask(ids)).tolist()
    closings = np.flatnonzero(ids == vocabulary.eom).tolist()
    if not places and not closings:
        return ids.copy()
    count = len(places) // 2
    order = [vocabulary.mask(index) for index in range(count)] * 2
    if not count or ids[places].tolist() != order:
        raise UserError(
            f"rotated row must hold <mask:0>.. in order, then again in its tail; got "
            f"{', '.join(vocabulary.name(int(ids[at])) for at in places) or 'none'} at {places}"
        )
    tail = places[count:]
    ends = [at - 1 for at in [*tail[1:], end]]
    if closings != ends:
        raise UserError(
            f"rotated row must have <eom> at the end of each span of its tail, "
            f"positions {ends}; got them at {closings}"
        )
    parts, at = [], 0
    for place, start, closing in zip(places[:count], tail, ends, strict=True):
        parts += [ids[at:place], ids[start + 1 : closing]]
        at = place + 1
    return np.concatenate([*parts, ids[at : tail[0]], ids[end:]])


def masked_rates(ids: np.ndarray, spans: Sequence[Span], vocabulary: Vocabulary) -> dict[str, int]:
    """Counts of what a row's spans mask, to be summed over rows and divided where logged.

    `rows`, `causal_rows` (no span), `tokens` (padding aside), `spans`, `masked_tokens`; and for the
    text segments, which are captions, `text_segments`, `text_masked` (a span overlaps it) and
    `text_full` (one span holds the whole of it); the same for `image_`.
    """
    ids = np.asarray(ids)
    return _rates(ids, _runs(ids, vocabulary, False), spans, vocabulary)


def mask_samples(
    samples: Iterable[np.ndarray],
    vocabulary: Vocabulary,
    config: ObjectiveConfig,
    generator: np.random.Generator,
    kept: Container[int] | None = None,
) -> tuple[list[tuple[np.ndarray, np.ndarray]], dict[str, int]]:
    """Draw and rotate each sample: the list of (ids, weights) of `rotate`, and the summed counts.

    With `kept`, places of samples, the others' spans are drawn too but nothing is made of them: of
    those no more need be right than where their segments are. Equal to `draw_spans` and `rotate`
    row by row with the same generator. Samples are rows as `sequence.build_sample` makes them: not
    rotated before, which is not checked here.
    """
    rows, counts = [], Counter()
    for place, sample in enumerate(samples):
        ids = np.asarray(sample, dtype=np.int64)
        segments = _runs(ids, vocabulary, False)
        spans = _draw(ids, segments, vocabulary, config, generator)
        if kept is not None and place not in kept:
            continue
        end = _end(ids, vocabulary)
        weights = _place_weights(ids, end, vocabulary, config)
        rows.append(_rotate(ids, spans, end, vocabulary, config, weights))
        counts.update(_rates(ids, segments, spans, vocabulary))
    return rows, dict(counts)


def _end(ids: np.ndarray, vocabulary: Vocabulary) -> int:
    """Length of the row without the padding at its end."""
    if not len(ids) or ids[-1] != vocabulary.pad:
        return len(ids)
    kept = np.flatnonzero(ids != vocabulary.pad)
    return int(kept[-1]) + 1 if len(kept) else 0


def _runs(ids: np.ndarray, vocabulary: Vocabulary, cross_break: bool) -> list[Span]:
    """Maximal runs, none empty, without specials; `cross_break` lets <break> be in them."""
    stops = ids >= vocabulary.pad
    if cross_break:
        stops &= ids != vocabulary.break_
    runs, start = [], 0
    for stop in np.flatnonzero(stops).tolist():
        if stop > start:
            runs.append((start, stop))
        start = stop + 1
    if start < len(ids):
        runs.append((start, len(ids)))
    return runs


def _draw(ids, segments, vocabulary, config, generator) -> list[Span]:
    """`draw_spans` with the segments already found."""
    most = min(config.most, vocabulary.sentinels)
    count = min(max(int(generator.poisson(config.rate)), config.fewest), most)
    if not count or not segments:
        return []
    if config.p_full and generator.random() < config.p_full:
        if count >= len(segments):
            return list(segments)
        chosen = generator.choice(len(segments), size=count, replace=False)
        return sorted(segments[index] for index in chosen.tolist())
    regions = _runs(ids, vocabulary, True) if config.cross_break else segments
    if config.spans == "segment":
        return _draw_in_regions(count, regions, generator)
    return _draw_in_block(count, _end(ids, vocabulary), regions, generator)


def _draw_in_regions(count: int, regions: list[Span], generator) -> list[Span]:
    """Up to `count` disjoint spans: a region, then two of its cut points, all uniform."""
    spans = []
    for _ in range(count):
        for _ in range(1 + REDRAWS):
            pick, left, right = generator.random(3).tolist()
            start, end = regions[int(pick * len(regions))]
            # L tokens have L + 1 cut points; the second is one of the L others: no span is empty
            one = int(left * (end - start + 1))
            two = int(right * (end - start))
            two += two >= one
            span = (start + min(one, two), start + max(one, two))
            if _apart(span, spans):
                spans.append(span)
                break
    return sorted(spans)


def _draw_in_block(count: int, end: int, regions: list[Span], generator) -> list[Span]:
    """The public code's recipe: end points over the row, first token aside, then clipped (A14)."""
    spans = []
    for left, right in np.sort(generator.random((count * count, 2)), axis=1).tolist():
        span = (max(int(left * end), 1), int(right * end + 0.5))
        if span[0] < span[1] and _apart(span, spans):
            spans.append(span)
        if len(spans) == count:
            break
    return sorted(span for span in map(lambda span: _clip(span, regions), spans) if span)


def _apart(span: Span, others: list[Span]) -> bool:
    """Whether a span meets none of the others."""
    return all(span[1] <= start or end <= span[0] for start, end in others)


def _clip(span: Span, regions: list[Span]) -> Span | None:
    """The part of a span in the region with which it overlaps most; None when it touches none."""
    parts = [(max(span[0], start), min(span[1], end)) for start, end in regions]
    best = max(parts, key=lambda part: part[1] - part[0])
    return best if best[0] < best[1] else None


def _rotate(ids, spans, end, vocabulary, config, weights) -> tuple[np.ndarray, np.ndarray]:
    """`rotate` without its checks; `end` is the row's length without padding. Keeps `weights`."""
    if not spans:
        weights[:1] = 0  # nothing predicts the first token
        return ids.copy(), weights
    total = end + 3 * len(spans)
    out = np.empty(len(ids) + 3 * len(spans), dtype=np.int64)
    loss = np.empty(len(out), dtype=np.float32)
    out[total:], loss[total:] = ids[end:], 0
    first, share = vocabulary.mask(0), config.sentinel_weight
    read = write = 0
    tail = total - sum(stop - start + 2 for start, stop in spans)
    for index, (start, stop) in enumerate(spans):
        here, inside = write + start - read, tail + 1 + stop - start
        out[write:here], loss[write:here] = ids[read:start], weights[read:start]
        out[here] = out[tail] = first + index
        loss[here] = loss[tail] = share * weights[start]
        out[tail + 1 : inside], loss[tail + 1 : inside] = ids[start:stop], weights[start:stop]
        out[inside], loss[inside] = vocabulary.eom, weights[start]
        read, write, tail = stop, here + 1, inside + 1
    here = write + end - read
    out[write:here], loss[write:here] = ids[read:end], weights[read:end]
    loss[0] = 0
    return out, loss


def _place_weights(ids, end, vocabulary, config) -> np.ndarray:
    """Loss weight of predicting each token of the row as it stands, float32 [T]."""
    weights = np.ones(len(ids), dtype=np.float32)
    weights[end:] = 0
    if config.document_weight != 1:
        for start, stop in _retrieved(ids, vocabulary):
            weights[start:stop] = config.document_weight
    return weights


def _retrieved(ids: np.ndarray, vocabulary: Vocabulary) -> list[Span]:
    """Per stretch between <eos>, the part before its last document, which is the query.

    The ids do not tell documents apart: the last document is the last two segments when they are a
    text and a picture in this order, else the last segment. A sample cut by packing is read alike.
    """
    parts = []
    for start, stop in _runs(ids, vocabulary, True):
        breaks = np.flatnonzero(ids[start:stop] == vocabulary.break_) + start
        starts = [start, *(breaks + 1).tolist()]
        query = starts[-1]
        if len(starts) > 1 and query < stop and vocabulary.is_image(ids[query]):
            before = starts[-2]
            if ids[before] == vocabulary.break_ or vocabulary.is_text(ids[before]):
                query = before
        parts.append((start, query))
    return parts


def _check_spans(ids, spans, end: int, vocabulary: Vocabulary) -> None:
    """Refuse spans that cannot be rotated and rows that already were."""
    if len(spans) > vocabulary.sentinels:
        raise UserError(
            f"spans must be at most {vocabulary.sentinels} (sentinels), got {len(spans)}"
        )
    before = 0
    for start, stop in spans:
        if not before <= start < stop <= end:
            rule = f"be sorted, disjoint, not empty and within [0, {end})"
            raise UserError(f"spans must {rule}, got {list(spans)}")
        before = stop
    rotated = np.flatnonzero(vocabulary.is_mask(ids) | (ids == vocabulary.eom))
    if rotated.size:
        at = int(rotated[0])
        raise UserError(
            f"row is rotated already: position {at} holds {vocabulary.name(int(ids[at]))}"
        )


def _rates(ids, segments, spans, vocabulary) -> dict[str, int]:
    """`masked_rates` with the segments already found."""
    counts = {
        "rows": 1,
        "causal_rows": int(not spans),
        "tokens": _end(ids, vocabulary),
        "spans": len(spans),
        "masked_tokens": sum(stop - start for start, stop in spans),
    }
    first = ids[[start for start, _ in segments]].tolist() if segments else []
    for kind in ("text", "image"):
        counts |= {f"{kind}_segments": 0, f"{kind}_masked": 0, f"{kind}_full": 0}
    for token, (start, stop) in zip(first, segments, strict=True):
        kind = "text" if token < vocabulary.text_size else "image"
        counts[f"{kind}_segments"] += 1
        counts[f"{kind}_masked"] += any(one < stop and start < two for one, two in spans)
        counts[f"{kind}_full"] += any(one <= start and stop <= two for one, two in spans)
    return counts
