"""Abstract, introduction, method and protocol of the report; and what it cites."""

from __future__ import annotations

from collections.abc import Sequence

from cm3leon.reports import main_arm
from cm3leon.reports.paper.claims import UNKNOWN, Finding, tally
from cm3leon.reports.paper.model import (
    Bullets,
    Formula,
    Paragraph,
    Parts,
    Section,
    count,
    emph,
    plain,
    prose,
)
from cm3leon.reports.paper.results import (
    Inputs,
    Run,
    at,
    columns,
    headline,
    largest,
    level,
    more,
    own,
    parameters,
    setting,
    value_name,
)
from cm3leon.reports.verdicts import FAILS, HOLDS, OPEN, UNMEASURABLE

MU, SIGMA = "\N{GREEK SMALL LETTER MU}", "\N{GREEK CAPITAL LETTER SIGMA}"
MINUS, SQUARED, ROOT = "\N{MINUS SIGN}", "\N{SUPERSCRIPT TWO}", "\N{SQUARE ROOT}"
GUIDANCE = (  # for typst, for HTML
    'ell = ell_"free" + w (ell_"cond" - ell_"free"),',
    f"logits = free + w (cond {MINUS} free),",
)
FRECHET = (
    "d^2 = norm(mu - mu')^2 + \"tr\"(Sigma + Sigma' - 2 (Sigma Sigma')^(1\\/2)).",
    f"d{SQUARED} = |{MU} {MINUS} {MU}'|{SQUARED} + "
    f"tr({SIGMA} + {SIGMA}' {MINUS} 2 {ROOT}({SIGMA}{SIGMA}')).",
)
REFERENCES = {
    "cm3leon": "L. Yu, B. Shi, R. Pasunuru, et al. Scaling autoregressive multi-modal models: "
    "pretraining and instruction tuning. arXiv:2309.02591, 2023.",
    "cm3": "A. Aghajanyan, B. Huang, C. Ross, et al. CM3: a causal masked multimodal model of the "
    "internet. arXiv:2201.07520, 2022.",
    "racm3": "M. Yasunaga, A. Aghajanyan, W. Shi, et al. Retrieval-augmented multimodal language "
    "modeling. arXiv:2211.12561, 2022.",
    "taming": "P. Esser, R. Rombach, B. Ommer. Taming transformers for high-resolution image "
    "synthesis. arXiv:2012.09841, 2020.",
    "clip": "A. Radford, J. W. Kim, C. Hallacy, et al. Learning transferable visual models from "
    "natural language supervision. arXiv:2103.00020, 2021.",
    "guidance": "J. Ho, T. Salimans. Classifier-free diffusion guidance. arXiv:2207.12598, 2022.",
    "contrast": "X. L. Li, A. Holtzman, D. Fried, et al. Contrastive decoding: open-ended text "
    "generation as optimization. arXiv:2210.15097, 2022.",
    "coco": "T.-Y. Lin, M. Maire, S. Belongie, et al. Microsoft COCO: common objects in context. "
    "arXiv:1405.0312, 2014.",
    "fid": "M. Heusel, H. Ramsauer, T. Unterthiner, B. Nessler, S. Hochreiter. GANs trained by a "
    "two time-scale update rule converge to a local Nash equilibrium. arXiv:1706.08500, 2017.",
    "kid": "M. Binkowski, D. J. Sutherland, M. Arbel, A. Gretton. Demystifying MMD GANs. "
    "arXiv:1801.01401, 2018.",
    "biased": "M. J. Chong, D. Forsyth. Effectively unbiased FID and Inception score and where to "
    "find them. arXiv:1911.07023, 2019.",
    "geneval": "D. Ghosh, H. Hajishirzi, L. Schmidt. GenEval: an object-focused framework for "
    "evaluating text-to-image alignment. arXiv:2310.11513, 2023.",
    "muse": "H. Chang, H. Zhang, J. Barber, et al. Muse: text-to-image generation via masked "
    "generative transformers. arXiv:2301.00704, 2023.",
}


def abstract(inputs: Inputs, found: Sequence[Finding]) -> Parts:
    """What stands today, with the numbers filled in; what no record holds is left out."""
    said = [
        prose(
            "CM3Leon is a retrieval-augmented, token-based, decoder-only transformer that writes "
            "and infills text and images. Its code and weights were never released. We describe "
            "an open reference implementation, the harness that evaluates it, and what they have "
            "measured so far: {runs} of {benches}, every number with its interval.",
            runs=_many(len(inputs.runs), "run", "results", "records"),
            benches=_many(
                len({run.bench for run in inputs.runs}), "benchmark", "results", "benches"
            ),
        )
    ]
    for group in headline(columns(inputs.of("fid_coco"))):
        said.append(_fid_sentence(inputs, group))
    run = largest(inputs.of("ablate_retrieval"))
    if run is not None:
        said.append(_retrieval_sentence(run))
    said.append(_claims_sentence(found))
    said.append(
        prose(
            "Published numbers are quoted with their sources; they never share a column with ours, "
            "since pictures, features and sizes differ."
        )
    )
    return joined(said)


def _fid_sentence(inputs: Inputs, group: Sequence[Run]) -> Parts:
    first = group[0]
    model = inputs.model(first.system)
    said = prose(
        "On {n} captions {where}, {name}{size} reaches {unit} {fid}",
        n=at(first, "/n"),
        where=_world(first),
        name=emph(first.system),
        size=prose(" ({n} parameters)", n=parameters(model)) if model else (),
        unit=value_name(first),
        fid=own(first),
    )
    floor, ceiling = more(first, "floor"), more(first, "ceiling")
    if floor and ceiling:
        text = ", where other real pictures stand at {floor} and noise at {ceiling}"
        said += prose(text, floor=floor, ceiling=ceiling)
    overall = more(first, "overall", 3)
    if overall:
        said += prose("; its composition score is {right}", right=overall)
    if len(group) > 1:
        last = group[-1]
        said += prose("; {name} reaches {fid}", name=emph(last.system), fid=own(last))
    return (*said, plain("."))


def _world(run: Run) -> Parts:
    if run.record["protocol"].get("data") == "coco":
        return prose("of MS-COCO, measured with the features of the embedded world,")
    return prose("of a small embedded world that no model was trained on")


def _retrieval_sentence(run: Run) -> Parts:
    default = run.record["protocol"]["default"]
    said = prose("Retrieval is ablated with {name}", name=emph(run.system))
    lift = more(run, f"tail.{default}.entity_vs_documents-0", 3)
    if lift:
        text = (
            ": an entity asked for by name is drawn for {lift} of the captions more with two "
            "documents than with none"
        )
        said += prose(text, lift=lift)
    right = more(run, f"test.{default}.right_vs_documents-0", 3)
    if right:
        text = "; on ordinary captions the share of questions answered right changes by {right}"
        said += prose(text, right=right)
    return (*said, plain("."))


def _claims_sentence(found: Sequence[Finding]) -> Parts:
    counts = {
        key: count(value, "results", f"statements: {key}") for key, value in tally(found).items()
    }
    return prose(
        "Of the statements that the paper's nine claims were split into, {holds} hold here, "
        "{fails} do not, {open} are not resolved and {few} are not measurable at their n; of "
        "{missing} claims nothing is measured yet.",
        holds=counts[HOLDS],
        fails=counts[FAILS],
        open=counts[OPEN],
        few=counts[UNMEASURABLE],
        missing=counts[UNKNOWN],
    )


def joined(sentences: Sequence[Parts]) -> Parts:
    """Sentences with a space between them."""
    out: list = []
    for sentence in sentences:
        out += [plain(" ")] if out else []
        out += sentence
    return tuple(out)


def _many(value: int, what: str, record: str, of: str) -> Parts:
    return prose("{n} " + what + ("" if value == 1 else "s"), n=count(value, record, of))


def introduction(inputs: Inputs) -> Section:
    """What this is, and how to read it."""
    return Section(
        "introduction",
        "Introduction",
        (
            Paragraph(
                prose(
                    "CM3Leon [@cm3leon] reports that one decoder-only transformer, trained on text "
                    "and image tokens with retrieved documents before them, draws as well as "
                    "diffusion models of its time for a fraction of their compute. Its code, data "
                    "and weights stayed closed, and its tables set numbers of unlike protocols "
                    "side by side. This report belongs to an open reference of the method, written "
                    "from the paper, and to a harness that measures it and its rivals the same "
                    "way."
                )
            ),
            Paragraph(
                prose(
                    "Two tiers run through the same code. The first is a small embedded world "
                    "with exact truth and trained weights, which a laptop measures in minutes; its "
                    "numbers are named for it and are no MS-COCO numbers. The second is MS-COCO "
                    "[@coco] at the paper's scale. [#limits] says what the first can and cannot "
                    "tell about the second."
                )
            ),
            Paragraph(
                prose(
                    "*Measured* numbers come from a record in the repository, with the interval "
                    "they were measured with; *quoted* ones from a publication, marked as read "
                    "there or second hand. Two numbers stand in one column only when benchmark, "
                    "version and protocol agree. A section whose results are missing says so, and "
                    "names the command that would fill it. No result is typed by hand: "
                    "`cm3leon-report.json` traces each to its file."
                ),
                lead="How to read it.",
            ),
        ),
    )


def method(inputs: Inputs) -> Section:
    """The model in a page: sequence, objective, network, retrieval, decoding."""
    return Section(
        "method",
        "Method",
        (
            Paragraph(_sequence(), lead="Sequence."),
            Paragraph(_objective(inputs), lead="Objective."),
            Paragraph(_network(inputs), lead="Network."),
            Paragraph(_retriever(inputs), lead="Retrieval."),
            Paragraph(
                prose(
                    "An image is drawn token by token in two streams: one reads the prompt, the "
                    "other reads the documents but `<mask:0>` in place of the caption. Their "
                    "logits are mixed by classifier-free guidance [@guidance] with a weight *w*,"
                ),
                lead="Decoding.",
            ),
            Formula(*GUIDANCE),
            Paragraph(
                prose(
                    "restricted to image tokens, divided by the temperature, cut to the top-p "
                    "mass, and drawn with a generator of the sample's own, so that batch, order "
                    "and resumption do not matter. The paper's alternative, CD-K, extends "
                    "contrastive decoding [@contrast]: tokens at least as likely as a share of the "
                    "*k*-th likeliest are ranked by cond less free."
                )
            ),
        ),
    )


def _sequence() -> Parts:
    return prose(
        "Text and images share one sequence of tokens. A picture becomes the codes of a "
        "convolutional image tokenizer [@taming]; `<break>` marks every change of modality and "
        "`<eos>` both ends. A training sample is up to three retrieved documents, each a caption "
        "and its picture, then the caption and the picture that asked for them."
    )


def _objective(inputs: Inputs) -> Parts:
    said = prose(
        "The causal masked objective of CM3 [@cm3]: a few spans are taken out of the sequence, "
        "replaced by sentinels and appended behind them, so that one next-token loss teaches "
        "writing and infilling. As in the paper, no span crosses `<break>` and documents weigh as "
        "much as the pair."
    )
    for model in inputs.models[-1:]:
        said += prose(
            " The number of spans follows a Poisson law of rate {rate}; with a probability of "
            "{full} a span is a whole segment. Without that choice, which the paper does not "
            "state, a model hardly ever sees a masked caption before its picture, the prompt of "
            "guidance and of captioning.",
            rate=setting(model, "/extra/objective/rate"),
            full=setting(model, "/extra/objective/p_full"),
        )
    return said


def _network(inputs: Inputs) -> Parts:
    said = prose(
        "A pre-norm decoder without biases, dropout or LayerNorm parameters, learned positions, "
        "tied embeddings, residual outputs that begin at zero."
    )
    if inputs.models:
        sizes = [parameters(model) for model in inputs.models]
        ends = sorted(sizes, key=lambda part: part.trace.value)
        said += prose(
            " [#table-models] lists the shipped weights, of {small} to {large} parameters.",
            small=ends[0],
            large=ends[-1],
        )
    return said


def _retriever(inputs: Inputs) -> Parts:
    said = prose(
        "A frozen bi-encoder of the CLIP kind [@clip] maps captions and documents to unit vectors, "
        "a document's being the normalised mean of its text's and its picture's; a memory bank is "
        "searched by inner product [@racm3]."
    )
    for model in reversed(inputs.models):
        if "retrieval" in model.about["extra"]:
            pointer = "/extra/retrieval"
            return said + prose(
                " {name} puts {k} documents before a caption, skipping any whose score with the "
                "query or with one chosen exceeds {most}.",
                name=emph(model.name),
                k=setting(model, f"{pointer}/documents"),
                most=setting(model, f"{pointer}/threshold"),
            )
    return said


def protocol(inputs: Inputs) -> Section:
    """What is measured, how intervals are made, when numbers may stand together."""
    runs = inputs.of("fid_coco")
    counted = prose(" of {n} captions", n=at(columns(runs)[0][0], "/n")) if runs else ()
    apart = bool(runs) and main_arm(columns(runs)[0][0].record) is not None
    distance = prose(
        "The distance [@fid] between features of drawn and of real pictures{counted}, the "
        "reference being {which}:",
        counted=counted,
        which="other real pictures of the split"
        if apart
        else "the pictures the captions were written for",
    )
    companions = prose(
        "In the embedded world the features are a small network's, trained to tell what a scene "
        "holds; the number is therefore called `fid_scenes`. Beside it stand its scale at the same "
        "size (real pictures against other real ones, reconstructions by the image tokenizer, "
        "noise), the kernel distance KID [@kid], and GenEval's six questions [@geneval], answered "
        "by reading each picture back against exact truth."
    )
    blocks = (
        Paragraph(_scenes(), lead="The embedded world."),
        Paragraph(distance, lead="Distance."),
        Formula(*FRECHET),
        Paragraph(companions),
        Bullets(_rules(inputs)),
    )
    return Section("protocol", "Protocol", blocks)


def _scenes() -> Parts:
    return prose(
        "A scene holds one to three objects on one of six places; shape, colour, size and pattern "
        "vary, and captions say part of it. Pictures and captions are pure functions of a seed. "
        "Training sees one dialect of captions and its own scenes, every evaluation another "
        "dialect and other scenes: that is what zero-shot means here. In the split `tail` captions "
        "name entities whose look no plain word gives, some of them in no training."
    )


def _rules(inputs: Inputs) -> tuple[Parts, ...]:
    return (
        prose(
            "Intervals are {level} over pictures or captions, widened by the spread over sampling "
            "seeds where several were drawn; each record names its method ([#protocols]). FID is "
            "biased by the number of pictures [@biased], which is why its scale is measured anew.",
            level=level(inputs.runs),
        ),
        prose(
            "Of several records of one system under one protocol the newest counts; the others "
            "stay in [#records]."
        ),
        prose(
            "Settings of decoding were chosen on captions of `val`; nothing was chosen on the "
            "captions measured here."
        ),
    )
