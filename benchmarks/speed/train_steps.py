"""One network trained for its speed in a process of its own, which waits for its turn.

    python train_steps.py '{"kind": "ours", ...}'    numbers of steps in, seconds out

Run by path, so that another revision of this project (PYTHONPATH) can be timed in turn with this
one: it uses nothing but what both have. Rows, captions' lengths and all else are the same for all.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import sys
import time

TEXT = 14  # tokens of a caption on average
SPREAD = 6  # captions' lengths lie so far around it
CELLS = 64  # codes of a picture
BREAKS = 2  # of a pair


def found(name: str, *places: str):
    """A name from the first of these modules that is there: older revisions have other places."""
    for place in places:
        with contextlib.suppress(ImportError, AttributeError):
            return getattr(importlib.import_module(place), name)
    raise ImportError(f"none of {', '.join(places)} has {name}")


def lengths(rows: int, documents: int) -> list[int]:
    """Tokens of each row of a batch: captions of different lengths before pictures."""
    draws = [(7 * row + 3 * pair) % (2 * SPREAD + 1) - SPREAD
             for row in range(rows) for pair in range(documents + 1)]  # fmt: skip
    each = [TEXT + draw + CELLS + BREAKS for draw in draws]
    step = documents + 1
    return [1 + sum(each[row * step : (row + 1) * step]) for row in range(rows)]


def ours(asked: dict):
    """Network, loss of a batch and optimiser of this project, or of the revision on the path."""
    import torch

    from cm3leon.config import ModelConfig, TrainConfig, VocabularyConfig

    network = found("Transformer", "cm3leon.model.transformer", "cm3leon.transformer")
    make = found("make_optimizer", "cm3leon.training.optimizer", "cm3leon.optimizer")
    device, context = asked.get("device", "cpu"), asked.get("context", 512)
    vocabulary = VocabularyConfig(1024, asked["ids"] - 1024 - 64, 16, 64)
    config = ModelConfig(
        "speed", asked["layers"], asked["width"], asked["heads"], context, vocabulary,
        init_std=0.02, position_std=0.02,
    )  # fmt: skip
    model = network(config).to(device)
    with contextlib.suppress(ImportError):  # older revisions have none
        found("keep_memory", "cm3leon.training.loop", "cm3leon.train")(torch.device(device))
    train = TrainConfig(optimizer=asked["optimizer"], precision=asked["dtype"])
    optimizer = make(model, train)
    longest = max(asked["lengths"])
    ids = some_ids(len(asked["lengths"]), longest).to(device)
    weights = (torch.arange(longest) < torch.tensor(asked["lengths"])[:, None]).float().to(device)

    def loss():
        losses = model.loss_per_token(ids, weights)
        return (losses * weights[:, 1:]).sum() / weights[:, 1:].sum()

    return model, loss, optimizer


def some_ids(rows: int, tokens: int):
    """Ids that all networks know, int64 [rows, tokens]."""
    import torch

    from cm3leon.seeds import torch_generator

    return torch.randint(4, 1024, (rows, tokens), generator=torch_generator(0, "train_speed"))


def opt(asked: dict):
    """The same network by Hugging Face's OPTForCausalLM and torch's fused AdamW."""
    import torch
    from transformers import OPTConfig, OPTForCausalLM

    width, longest = asked["width"], max(asked["lengths"])
    device, context = asked.get("device", "cpu"), asked.get("context", 512)
    config = OPTConfig(
        vocab_size=asked["ids"], hidden_size=width, num_hidden_layers=asked["layers"],
        ffn_dim=4 * width, num_attention_heads=asked["heads"], max_position_embeddings=context,
        word_embed_proj_dim=width, enable_bias=False, layer_norm_elementwise_affine=False,
        activation_function="relu", dropout=0.0, attention_dropout=0.0,
    )  # fmt: skip
    model = OPTForCausalLM(config).train().to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    ids = some_ids(len(asked["lengths"]), longest).to(device)
    mask = (torch.arange(longest) < torch.tensor(asked["lengths"])[:, None]).long().to(device)
    labels = ids.masked_fill(mask == 0, -100)
    return model, lambda: model(ids, attention_mask=mask, labels=labels).loss, optimizer


def main(asked: dict) -> None:
    """Set up, say how many parameters there are, then take the steps that are asked for."""
    import torch

    torch.set_num_threads(asked["threads"])
    model, loss, optimizer = (ours if asked["kind"] == "ours" else opt)(asked)
    half, device = asked["dtype"] == "bfloat16", asked.get("device", "cpu")
    kind = torch.device(device).type
    positions = [p for name, p in model.named_parameters() if "position" in name]
    count = sum(p.numel() for p in model.parameters()) - sum(p.numel() for p in positions)
    print(json.dumps({"parameters": count}), flush=True)
    for line in sys.stdin:
        started = time.perf_counter()
        for _ in range(int(line)):
            with torch.autocast(kind, torch.bfloat16) if half else contextlib.nullcontext():
                value = loss()
            value.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        if kind == "cuda":
            torch.cuda.synchronize(device)
        print(json.dumps({"seconds": time.perf_counter() - started}), flush=True)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
