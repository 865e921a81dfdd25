"""The commands that train at any scale: train-text (a text tokenizer) and train (a transformer)."""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from cm3leon.cli.data import tell_skipped
from cm3leon.config import (
    ModelConfig,
    ObjectiveConfig,
    RetrievalConfig,
    TrainConfig,
    paper_recipe,
)
from cm3leon.errors import UserError
from cm3leon.files import baselines_folder
from cm3leon.options import Batch, Count, Ids, NotNegative, Positive, Share, Threads, Whole
from cm3leon.progress import alive
from cm3leon.training.recipe import FOUND, Recipe, find_model_config, fitted

if TYPE_CHECKING:
    from cm3leon.training.estimate import Estimate
    from cm3leon.training.parallel import Alone
    from cm3leon.training.pretraining import Corpus

MOST_EPOCHS = 1000  # above, a plan says that the documents are too few


@dataclass(frozen=True)
class TrainText:
    """Train a text tokenizer on a source's captions: `cm3leon train-text SOURCE --out FOLDER/text`.

    Byte-level BPE. Sources as for `cm3leon encode`; no picture is read.
    """

    source: tyro.conf.Positional[str]
    """folder of pictures with captions, root of MS-COCO, webdataset tars, or scenes:..."""
    out: Path
    """folder to make; called text beside a vq/ it serves `cm3leon encode --tokenizers`"""
    size: Ids = 56_320
    """ids, the paper's by default; with few captions there are fewer"""

    def run(self) -> int:
        """Read, train, write, say how large it is."""
        from cm3leon.data.captions import read_captions
        from cm3leon.data.sources import find_source
        from cm3leon.files import check_free
        from cm3leon.tokenizers.folder import is_empty
        from cm3leon.tokenizers.text import TextTokenizer

        if not is_empty(self.out):  # a killed run leaves an empty folder
            check_free(self.out)
        count, skipped = 0, []

        def counted():
            nonlocal count
            for caption in read_captions(find_source(self.source), skipped):
                count += 1
                yield caption

        tokenizer = TextTokenizer.train(counted(), self.size)
        if not count:
            why = "; the first: {}: {}".format(*skipped[0]) if skipped else ""
            raise UserError(f"{self.source} has no captions{why}; name a source with some")
        tokenizer.save(self.out)
        fewer = "" if tokenizer.size == self.size else f" (asked for {self.size}: no pair is left)"
        print(f"{self.out}: {tokenizer.size} ids{fewer} from {count} captions")
        tell_skipped(skipped, "their reasons are told by `cm3leon encode`")
        return 0


@dataclass(frozen=True)
class TrainChanges:
    """Settings of the training; what is left out is the paper's (Table 3) for its sizes."""

    steps: Count | None = None
    """updates; left out: as many as --tokens needs"""
    batch: Batch | None = None
    """rows a step; left out: as many as 8M tokens are, of other models 32"""
    rate: Positive | None = None
    """peak learning rate"""
    warmup: Whole | None = None
    """steps up to the peak; left out: 1,500 (small models: 100), of linear a tenth at most"""
    final: Share | None = None
    """last learning rate as a share of the peak"""
    schedule: str | None = None
    """linear from the peak on, or wsd: warm-up, stable, and a decay in the last --decay steps"""
    decay: Whole | None = None
    """wsd: steps of the decay; 0, the default, leaves the stable part to be made longer"""
    optimizer: str | None = None
    """adamw, or muon for the matrices of the blocks"""
    clip: Annotated[Positive | None, tyro.conf.arg(name="gradient-clip")] = None
    """largest L2 norm of the whole gradient"""
    weight_decay: NotNegative | None = None
    """of matrices and embeddings"""
    precision: str | None = None
    """of matrix products: auto, float32 or bfloat16"""
    seed: int | None = None
    """of weights, order, masks and documents"""
    save_every: Count | None = None
    """steps between states from which a killed run goes on"""
    keep_every: Whole | None = None
    """wsd: steps between states of the stable part that stay, to --decay-from"""
    eval_every: Count | None = None
    """steps between held-out losses"""
    log_every: Count | None = None
    """steps between lines of the log"""

    @property
    def given(self) -> dict:
        """Name -> value of what is not left out."""
        values = {one.name: getattr(self, one.name) for one in fields(self)}
        return {name: value for name, value in values.items() if value is not None}


@dataclass(frozen=True)
class Train:
    """Train a CM3Leon on what `cm3leon encode` made; the same command goes on where it was killed.

    `cm3leon train CACHE --model 350m --tokenizers FOLDER --bank CACHE --clip ViT-B-32:FILE --out
    MODEL`. Many GPUs: `torchrun --nproc-per-node N -m cm3leon train CACHE ...`, of any N at any
    time. `--dry-run` checks and counts, and trains nothing.
    """

    cache: tyro.conf.Positional[Path | None] = None
    """token cache to learn from; --dry-run needs none"""
    out: Path | None = None
    """folder of the model; made if it is not there"""
    model: str = "350m"
    """350m, 760m, 7b, a small one (scenes-xs, -s, -m), or a .json file with a model's shape"""
    tokenizers: Path | None = None
    """folder with the text/ and vq/ of the cache; left out: those of the shipped baselines"""
    fit_vocabulary: bool = False
    """give the model as many text and image ids, and places of a picture, as the tokenizers have"""
    bank: Path | None = None
    """token cache to retrieve from (may be CACHE), or what `cm3leon index` made of CACHE"""
    clip: str = "scenes"
    """the CLIP of the caches: scenes, local-dir:FOLDER or ARCHITECTURE:FILE"""
    documents: tuple[Share, ...] | None = None
    """shares of the steps with 0, 1, 2, .. documents; left out: always as many as fit, 3 at most"""
    hold_out: Count | None = None
    """last documents of the cache that are not trained on; left out: a sixteenth, 256 at most"""
    held_out: Path | None = None
    """another token cache to hold out instead (its first --hold-out documents, or 256)"""
    tokens: Positive | None = None
    """tokens to read in all; left out: the paper's for its sizes"""
    decay_from: str | None = None
    """MODEL[@STEP]: begin from a kept state of its stable part and decay for --decay steps"""
    accumulate: Batch | None = None
    """pieces of a batch, one after the other; left out: of about 32,768 tokens each"""
    recompute: bool = False
    """make activations again in the backward pass: a fraction of the memory, a third more time"""
    replicas: Count | None = None
    """of torchrun: whole models on all ranks together, each in parts; left out: one a machine"""
    device: str = "auto"
    """cpu, cuda, or auto: CUDA where there is one"""
    threads: Threads | None = None
    """of the processor; the bytes of a CPU training hang on it"""
    tensorboard: bool = False
    """the log as TensorBoard's scalars too, in run/tensorboard of the model's folder"""
    find_neighbours: bool = False
    """find the documents of all queries and stop; given to several processes, they share the work,
    and the training of the same options begins at once"""
    dry_run: bool = False
    """check, print the estimate, train nothing"""
    gpus: Count | None = None
    """of --dry-run: memory of each of so many GPUs, and hours"""
    gpu: str = "h100"
    """their kind: v100, a100, l40s, h100, h200, b200"""
    mfu: Share = 0.4
    """share of their peak that 6ND is taken to reach"""
    training: Annotated[TrainChanges, tyro.conf.arg(name="")] = field(default_factory=TrainChanges)
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    retrieval: RetrievalConfig = FOUND

    def __post_init__(self):
        if self.cache is None and not self.dry_run:
            raise UserError("no token cache: give what `cm3leon encode` made, or --dry-run")
        if self.out is None and not self.dry_run:
            raise UserError("no --out: name the folder of the model, or give --dry-run")
        if self.bank is None and any((self.documents or ())[1:]):
            raise UserError(f"--documents {self.documents} needs a --bank to retrieve from")
        if self.decay_from is not None:
            self.check_branch()
        if self.gpus is not None and not self.dry_run:
            raise UserError(
                f"--gpus {self.gpus} is a question of --dry-run; train on them by torchrun"
            )
        if self.find_neighbours and (self.bank is None or self.dry_run):
            raise UserError("--find-neighbours needs a --bank, and no --dry-run")
        if self.cache is None and (self.bank or self.held_out):
            raise UserError("--bank and --held-out need the token cache to learn from; give it")

    def check_branch(self) -> None:
        """Raise UserError for options that a branch of another training cannot take."""
        if not self.training.decay or self.training.decay < 1:
            raise UserError(f"--decay-from {self.decay_from} needs --decay: the steps of the decay")
        if self.tokens is not None or self.training.steps is not None:
            raise UserError("--decay-from says where the decay begins: give --decay, not --steps")
        if self.out is None:
            raise UserError("--decay-from needs --out: the folder of the decayed model")

    def run(self) -> int:
        """Check, count, train, write, print the folder; of torchrun one of its processes."""
        import torch

        from cm3leon.loading import checked_device
        from cm3leon.training.parallel import together

        if self.threads is not None:
            torch.set_num_threads(self.threads)
        device = checked_device(self.device)
        replicas = None if self.dry_run else self.replicas
        return together(device, replicas, lambda ranks: self.trained(device, ranks))

    def trained(self, device: str, ranks: Alone) -> int:
        """The work of one of the processes."""
        from cm3leon.cli.tensorboard import followed
        from cm3leon.training.pretraining import RUN, pretrain

        model = find_model_config(self.model)
        corpus = None
        if self.tokenizers is not None or self.cache is not None:
            with alive("open caches, tokenizers and CLIP"):
                model, corpus = self.opened(model)
        recipe, estimate, start = self.planned(model, corpus)
        lines = self.told(corpus, recipe, estimate)
        if self.gpus is not None:
            lines += self.on_gpus(estimate)
        for line in lines if ranks.first else ():
            print(line)
        if self.dry_run:
            if ranks.first:
                print("dry run: nothing was trained")
            return 0
        if self.find_neighbours:
            corpus.neighbours(recipe, self.out / RUN, device)
            print(f"the documents of {len(corpus.cache):,} queries lie in {self.out / RUN}")
            return 0
        with followed(self.out / RUN, self.tensorboard and ranks.first):
            done = pretrain(recipe, corpus, self.out, device, start, ranks)
        if ranks.first:
            took = f"{done['step']} steps in {done['seconds']:.0f} s"
            print(f"{self.out}: {took}, training loss {done['loss']:.4f}")
        return 0

    def on_gpus(self, estimate: Estimate) -> list[str]:
        """What each of the GPUs holds, and how long it takes."""
        from cm3leon.training.estimate import Plan, find_gpu

        peak, memory = find_gpu(self.gpu)
        if not self.mfu:
            raise UserError("--mfu must lie above 0: the share of the peak that is reached")
        half = estimate.train.precision != "float32"
        more = {"replicas": self.replicas or 1, "recompute": self.recompute, "half": half}
        plan = Plan(estimate, self.gpus, memory, peak, self.mfu, **more)
        return plan.lines(self.gpu)

    def opened(self, model: ModelConfig) -> tuple[ModelConfig, Corpus | None]:
        """The model fitted to the tokenizers, and the data where there is a cache."""
        from cm3leon.clip import load_clip
        from cm3leon.loading import load_tokenizers
        from cm3leon.retrieval.training_bank import check_clip, find_bank
        from cm3leon.training import pretraining
        from cm3leon.training.estimate import check_row

        home = self.tokenizers or baselines_folder() / "scenes"
        text, vq = load_tokenizers(home)
        pretraining.check_tokenizers(vq, home)
        sizes = text.size, vq.config.codebook_size, vq.config.grid
        model = fitted(model, *sizes, self.fit_vocabulary)
        check_row(model.context, vq.config.grid**2 + 2, 0)
        if self.cache is None:
            return model, None
        cache = other = pretraining.open_cache(self.cache, text, vq, home)
        if self.held_out is None:
            held = pretraining.last_of(cache, self.hold_out)
        else:
            other = pretraining.open_cache(self.held_out, text, vq, home)
            held = pretraining.first_of(other, self.hold_out, cache)
        trained = held.start if self.held_out is None else len(cache)
        bank = clip = None
        if self.bank is not None:
            bank = find_bank(self.bank, cache)
            clip = None if self.dry_run else load_clip(self.clip)
            if clip is not None:
                check_clip(cache, clip)
        corpus = pretraining.Corpus(cache, trained, other, held, text, home, bank, clip)
        return model, corpus

    def planned(
        self, model: ModelConfig, corpus: Corpus | None
    ) -> tuple[Recipe, Estimate, Path | None]:
        """What to train, what it costs and from which state it branches, if from any; UserError
        where rows do not fit the context.
        """
        from cm3leon.retrieval.neighbours import check_shares
        from cm3leon.training.estimate import (
            Estimate,
            check_row,
            most_documents,
            pieces_of,
            row_tokens,
            schedule,
        )

        pair = corpus.pair if corpus else model.context - 1.0
        shares = self.documents
        if shares is None:
            count = 0 if self.bank is None else max(1, most_documents(model.context, pair))
            shares = (0.0,) * count + (1.0,)
        check_shares(shares)
        check_row(model.context, pair, len(shares) - 1)
        if len(shares) - 1 > self.retrieval.documents:
            raise UserError(
                f"--documents asks for {len(shares) - 1} documents, --retrieval.documents finds "
                f"{self.retrieval.documents}; raise it"
            )
        if corpus is not None and len(shares) > 1:
            corpus.check_bank(self.retrieval.documents)
        row = row_tokens(pair, sum(at * share for at, share in enumerate(shares)))
        start = None
        if self.decay_from is None:
            train = schedule(paper_recipe(self.model), row, self.tokens, self.training.given)
        else:
            train, start = self.branched()
        pieces = pieces_of(train.batch, row) if self.accumulate is None else self.accumulate
        if not 1 <= pieces <= train.batch:
            raise UserError(f"accumulate must lie in 1..{train.batch} (the batch), got {pieces}")
        recipe = Recipe(
            model, train, self.objective, tuple(shares), self.retrieval, pieces, self.recompute
        )
        trained = corpus.trained if corpus else None
        return recipe, Estimate(model, train, row, pieces, trained), start

    def branched(self) -> tuple[TrainConfig, Path | None]:
        """The settings of a branch, those of its stem with what was given, and its first state."""
        from cm3leon.training.pretraining import RUN
        from cm3leon.training.schedule import decay_from

        stem, _, step = self.decay_from.partition("@")
        if step and not step.isdecimal():
            raise UserError(f"--decay-from must be MODEL or MODEL@STEP, got {self.decay_from!r}")
        train, start = decay_from(
            Path(stem) / RUN, self.training.decay, self.out / RUN, int(step) if step else None
        )
        return replace(train, **self.training.given), start

    def told(self, corpus: Corpus | None, recipe: Recipe, estimate: Estimate) -> list[str]:
        """The plan as lines."""
        if corpus is None:
            return [*estimate.lines(), "data: no cache given, rows taken to be as the context"]
        several = any(0 < share < 1 for share in recipe.shares)
        often = ", ".join(f"{at}: {share:g}" for at, share in enumerate(recipe.shares))
        before = f"in shares {often}" if several else f"always {recipe.documents}"
        return [
            *estimate.lines(),
            f"data: {corpus.trained:,} documents of {corpus.cache.folder}, {len(corpus.held):,} "
            f"held out, {len(corpus.cache.skipped):,} not readable; {corpus.pair:,.0f} tokens a "
            f"pair; documents before a query: {before}",
            *too_often(estimate),
            "fits: vocabulary, grid and context"
            + (", CLIP of cache and bank" if corpus.bank else ""),
        ]


def too_often(estimate: Estimate) -> list[str]:
    """A line where a training reads its documents more often than anything is learned from."""
    if not estimate.documents:
        return []
    epochs = estimate.train.steps * estimate.train.batch / estimate.documents
    if epochs <= MOST_EPOCHS:
        return []
    return [
        f"too few documents: {epochs:,.0f} epochs of {estimate.documents:,} learn them by heart; "
        "encode more, or give fewer --tokens or --steps"
    ]
