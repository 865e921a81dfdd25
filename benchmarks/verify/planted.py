"""Faults that the tests once did not notice, and changes that no test can.

`PLANTED` are single changes that passed all related tests when they were first made by hand; each
has its test since, and `nox -s mutants -- --planted` makes them again. `EQUIVALENT` names, by path,
drawn changes (`mutations.Mutation.name`) after which the program still does the same, with the
reason. Arguments that may stand either way are no change at all (`mutations.SYMMETRIC`).
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Planted:
    """Text of a file, there once; what stands in its place; which test files notice."""

    name: str
    path: str
    before: str
    after: str
    tests: tuple[str, ...]


STATS, PAIRED = (
    "cm3leon/evaluation/statistics/intervals.py",
    "cm3leon/evaluation/statistics/paired.py",
)
PLANTED = (
    Planted(
        "ratio-inverse-interval",
        PAIRED,
        "return one.value, one.value * float(low), one.value * float(high)",
        "return one.value, float(low) / one.value, float(high) / one.value",
        (
            "evaluation/statistics/test_significance.py",
            "evaluation/statistics/test_intervals.py",
        ),
    ),
    Planted(
        "influence-not-centred",
        STATS,
        "return found - found.mean()",
        "return found",
        (
            "evaluation/statistics/test_intervals.py",
            "evaluation/statistics/test_significance.py",
        ),
    ),
    Planted(
        "ratio-interval-narrower",
        PAIRED,
        "low, high = np.exp(mean_interval(one.influence_P / one.value, LEVEL))",
        "low, high = np.exp(mean_interval(0.8 * one.influence_P / one.value, LEVEL))",
        (
            "evaluation/statistics/test_significance.py",
            "evaluation/statistics/test_intervals.py",
        ),
    ),
    Planted(
        "half-samples-of-odd-n",
        STATS,
        "return float(np.sqrt(half / (count - half)))",
        "return 1.0",
        ("evaluation/statistics/test_intervals.py",),
    ),
    Planted(
        "seeds-excess-not-divided",
        STATS,
        "excess = max(0.0, float(np.var(values, ddof=1)) - drawn) / sets",
        "excess = max(0.0, float(np.var(values, ddof=1)) - drawn)",
        ("evaluation/statistics/test_intervals.py",),
    ),
    Planted(
        "kid-subset-of-all",
        "cm3leon/evaluation/metrics/kid.py",
        "(max(2, smaller // 2) if exact else SUBSET) if subset_size is None",
        "smaller if subset_size is None",
        ("evaluation/metrics/test_kid.py",),
    ),
    Planted(
        "gate-alarm-at-0.05",
        "cm3leon/reports/regress.py",
        "ALARM = 0.001 ",
        "ALARM = 0.05 ",
        ("reports/test_regress.py",),
    ),
    Planted(
        "gate-error-of-one-side",
        "cm3leon/reports/regress.py",
        '(1 / len(old["per_seed"]) + 1 / len(new["per_seed"]))',
        '(1 / len(new["per_seed"]))',
        ("reports/test_regress.py",),
    ),
    Planted(
        "gate-counters-of-records",
        "cm3leon/reports/regress.py",
        "verdict = WORSE if new > old else BETTER if new < old else OPEN\n            found",
        "verdict = OPEN\n            found",
        ("reports/test_regress.py",),
    ),
    Planted(
        "rfid-without-tokenizer",
        "benchmarks/evaluate/fid.py",
        '"rfid": (tokenizer.decode(tokenizer.encode(part)) for part in pieces(real_NSS3)),',
        '"rfid": (part for part in pieces(real_NSS3)),',
        ("benchmarks/evaluate/test_fid.py",),
    ),
    Planted(
        "prompts-digest-without-captions",
        "benchmarks/protocols/prompts.py",
        "fields = prompt.id, prompt.image_id, prompt.caption",
        "fields = prompt.id, prompt.image_id",
        ("benchmarks/protocols/test_prompts.py",),
    ),
    Planted(
        "best-weights-three-steps-apart",
        "cm3leon/reports/benches/decoding.py",
        'if value["low"] >= -1 and value["high"] <= 1:',
        'if value["low"] >= -3 and value["high"] <= 3:',
        ("reports/test_verdicts.py",),
    ),
    Planted(
        "size-by-points",
        "cm3leon/reports/paper/claims.py",
        'if one and other and other["high"] < one["low"]:',
        'if large_run.record["value"] < small_run.record["value"]:',
        ("reports/test_verdicts.py",),
    ),
    Planted(
        "one-training-seed-resolves",
        "cm3leon/reports/benches/pretraining.py",
        'resolved = len(record["protocol"]["seeds"]) > 1',
        "resolved = True",
        ("reports/test_verdicts.py",),
    ),
    Planted(
        "unseen-from-3700",
        "cm3leon/evaluation/metrics/composition.py",
        "for entity in entities()[SEEN_ENTITIES:])",
        "for entity in entities()[SEEN_ENTITIES - 100 :])",
        ("evaluation/metrics/test_composition.py",),
    ),
    Planted(
        "overall-with-entity",
        "cm3leon/evaluation/metrics/composition.py",
        "six = share_K[: len(TASKS)]",
        "six = share_K[: len(TASKS) + 1]",
        ("evaluation/metrics/test_composition.py",),
    ),
    Planted(
        "no-redraws",
        "cm3leon/sequence/masking.py",
        "REDRAWS = 16 ",
        "REDRAWS = 0 ",
        ("sequence/test_masking.py",),
    ),
    Planted(
        "top-p-boundary",
        "cm3leon/decoding/sampling.py",
        "last_B1 = (summed_BN < mass).sum(-1, keepdim=True)",
        "last_B1 = (summed_BN <= mass).sum(-1, keepdim=True)",
        ("decoding/test_sampling.py",),
    ),
)
AT_ONCE = "how many are held at once changes no answer"
FIRST = "how many are looked at first is speed alone"
AS_LONG = "all sets are of the same prompts, one as long as the other"
EITHER_WAY = "the mean over all pairs is the same either way"
EQUIVALENT: dict[str, dict[str, str]] = {
    "cm3leon/decoding/sampling.py": {
        "module: 64 -> 65 #0": FIRST,
        "module: 64 -> 63 #0": FIRST,
        "draw: uniforms_B = uniforms_B.to(logits_BV.device, torch.float64) -> pass #0": (
            "on one device the product with float64 sums is float64 without it too"
        ),
        "draw: 0 -> (-1) #1": "some token is possible, and its sum is above 0",
    },
    "cm3leon/evaluation/text/ptb.py": {
        "tokens: 0 -> (-1) #1": "a run of full stops or hyphens begins as it ends",
    },
    "cm3leon/evaluation/metrics/cmmd.py": {
        "module: 1024 -> 1023 #0": AT_ONCE,
        "module: 1024 -> 1025 #0": AT_ONCE,
        "cmmd: _mean_kernel(a, b, sigma) -> (_mean_kernel(b, a, sigma)) #0": EITHER_WAY,
    },
    "cm3leon/evaluation/metrics/copying.py": {
        "nearest_distance: 0 -> (-1) #0": "all documents have one shape",
        "shared_block: 0 -> (-1) #0": "all documents have one shape",
        "_overlap: 0 -> (-1) #3": "a slice ends with the row, however far it reaches",
    },
    "cm3leon/evaluation/metrics/kid.py": {
        "discrepancy: cubic(a_ND, b_MD) -> (cubic(b_MD, a_ND)) #0": EITHER_WAY,
        "measured: 0 -> (-1) #0": AS_LONG,
    },
    "cm3leon/evaluation/metrics/precision_recall.py": {
        "measured: 0 -> (-1) #0": AS_LONG,
        "measured: 0 -> (-1) #2": AS_LONG,
    },
    "cm3leon/evaluation/statistics/frechet.py": {
        "_feature_factor: 1 -> 0 #0": (
            "rows, centred, are a factor of their covariance at any N; the other holds less"
        ),
        "_checked: np.abs(sigma) -> (sigma) #0": (
            "the largest entry of a covariance is a variance, never negative"
        ),
        "_checked: 0 -> (-1) #1": "what is symmetric already stays to the last bit",
        "influence: values > RANGE * max(float(values[-1]), 0.0)"
        " -> (values >= RANGE * max(float(values[-1]), 0.0)) #0": (
            "differs where a covariance is 0: then its root is 0 with its directions and without"
        ),
        "_overlap_by_eigenvalues: lapack.dpotrf(sigma.T, lower=1, clean=0)"
        " -> (lapack.dpotrf(sigma.T, lower=1)) #0": "the half that it then clears is not read",
    },
    "cm3leon/evaluation/statistics/intervals.py": {
        "binomial_interval: 1.0 -> 1.1 #0": "Wilson's upper end is above 1 by rounding at most",
    },
    "cm3leon/evaluation/statistics/paired.py": {
        "mean: bootstrap_interval(values, resamples=resamples, level=LEVEL)"
        " -> (bootstrap_interval(values, resamples=resamples)) #0": "0.95 is the default too",
    },
    "cm3leon/sequence/masking.py": {
        "_draw: generator.random() < config.p_full -> (generator.random() <= config.p_full) #0": (
            "a draw equal to the chance has chance 0"
        ),
    },
    "cm3leon/retrieval/select.py": {
        "module: 4096 -> 4095 #0": AT_ONCE,
        "module: 4096 -> 4097 #0": AT_ONCE,
        "module: 16 -> 15 #0": FIRST,
        "module: 16 -> 17 #0": FIRST,
        "module: 2 -> 1 #1": AT_ONCE,
        "module: 2 -> 3 #1": AT_ONCE,
        "module: 2**17 -> (2 * 17) #0": AT_ONCE,
        "module: 17 -> 16 #0": AT_ONCE,
        "module: 17 -> 18 #0": AT_ONCE,
        "_choose: 1 -> 2 #1": AT_ONCE,
        "_choose: start : start + piece -> start: #0": AT_ONCE,
        "_choose: start : start + piece -> :start + piece #0": AT_ONCE,
        "_greedy: -np.inf -> (np.inf) #0": (
            "a place that stays empty is looked up again or refused, its score never read"
        ),
    },
}
