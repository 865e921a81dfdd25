"""Our transformer in OPT's words and back: configurations and names of tensors, nothing read or
written.

Hugging Face's OPT without biases and without affine norms computes what ours does (Table 3). Three
things differ: OPT keeps queries, keys and values apart; its position table has two more rows in
front, which no token of an unpadded row meets; its tied head has a name of its own. Where tokens do
not stand at their index in the row, OPT must be given `position_ids`, the places of
`positions.place`; it has no word for sums of vectors: the table of a "grid" is written out, and
what is read back is "anchored".
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from cm3leon.config import ModelConfig, VocabularyConfig, from_dict, to_dict
from cm3leon.errors import UserError
from cm3leon.sequence.documents import Vocabulary

if TYPE_CHECKING:
    from torch import Tensor

    from cm3leon.model.transformer import Transformer

OURS = "cm3leon"  # key of an exported config.json that holds what OPT has no word for
ROWS = 2  # in front of OPT's position table
BODY = "model.decoder."
HEAD = "lm_head.weight"
NETWORK = {  # what OPT must be to be our network
    "model_type": "opt",
    "activation_function": "relu",
    "do_layer_norm_before": True,
    "_remove_final_layer_norm": False,
    "enable_bias": False,
    "layer_norm_elementwise_affine": False,
}
DEFAULTS = {  # what OPT means where a config.json is silent
    "model_type": None,
    "activation_function": "relu",
    "do_layer_norm_before": True,
    "_remove_final_layer_norm": False,
    "enable_bias": True,
    "layer_norm_elementwise_affine": True,
    "tie_word_embeddings": True,
    "vocab_size": 50272,
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "ffn_dim": 3072,
    "max_position_embeddings": 2048,
    "word_embed_proj_dim": None,
}
SIZES = (
    "vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "ffn_dim",
    "max_position_embeddings",
)  # fmt: skip


SILENT = (  # of our configuration, where OPT's has no word
    "name", "vocabulary", "context", "init_std", "position_std", "positions", "position_text",
    "position_grid", "position_pairs",
)  # fmt: skip


def to_opt_config(config: ModelConfig) -> dict:
    """Content of the `config.json` that transformers reads as `OPTConfig`, plain JSON values.

    <pad> is a token of its own, as OPT never trains the row of its padding. Under "cm3leon" stands
    our own configuration, so that an import gives it back whole (a "grid" as `written_out`).
    """
    config = written_out(config)
    vocabulary = Vocabulary.from_config(config.vocabulary)
    return NETWORK | {
        "architectures": ["OPTForCausalLM"],
        "vocab_size": vocabulary.size,
        "hidden_size": config.width,
        "word_embed_proj_dim": config.width,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "ffn_dim": 4 * config.width,
        "max_position_embeddings": config.places,
        "tie_word_embeddings": config.tied,
        "dropout": 0.0,
        "attention_dropout": 0.0,
        "layerdrop": 0.0,
        "init_std": config.init_std,
        "pad_token_id": vocabulary.pad,
        "bos_token_id": vocabulary.eos,
        "eos_token_id": vocabulary.eos,
        "dtype": "float32",
        OURS: {"config": to_dict(config)},
    }


def written_out(config: ModelConfig) -> ModelConfig:
    """The configuration of the same network with a vector of its own for each place."""
    return replace(config, positions="anchored") if config.positions == "grid" else config


def to_opt_state_dict(model: Transformer) -> dict[str, Tensor]:
    """State dict of `OPTForCausalLM` for the same network; views, nothing but positions is copied.

    A tied head is there under its own name too and shares its memory with the embedding.
    """
    import torch.nn.functional as F

    tensors = {
        "embed_tokens.weight": model.token_embedding.weight,
        "embed_positions.weight": F.pad(model.position_table(), (0, 0, ROWS, 0)),
    }
    for index, block in enumerate(model.blocks):
        layer = f"layers.{index}."
        for name, part in zip("qkv", block.qkv.weight.chunk(3), strict=True):
            tensors[f"{layer}self_attn.{name}_proj.weight"] = part
        tensors[f"{layer}self_attn.out_proj.weight"] = block.out.weight
        tensors[f"{layer}fc1.weight"] = block.up.weight
        tensors[f"{layer}fc2.weight"] = block.down.weight
    head = model.token_embedding if model.head is None else model.head
    named = {BODY + name: value for name, value in tensors.items()} | {HEAD: head.weight}
    return {name: value.detach() for name, value in named.items()}


def from_opt_config(
    values: dict, vocabulary: VocabularyConfig | None = None, name: str = "opt"
) -> ModelConfig:
    """Our configuration of an OPT `config.json`: of an export of ours, or of a plain OPT.

    A plain one does not say which ids mean what, `vocabulary` does; its padded size must be the
    checkpoint's. Raises UserError for a network that is not ours (biases, affine norms, another
    activation, projected embeddings, norms behind the blocks) and for sizes that do not fit.
    """
    found = DEFAULTS | {key: values[key] for key in DEFAULTS if key in values}
    for key, needed in NETWORK.items():
        if found[key] != needed:
            raise UserError(
                f"OPT's {key} must be {needed!r}, got {found[key]!r}; another network is not read"
            )
    for key in SIZES:
        if not isinstance(found[key], int) or isinstance(found[key], bool):
            raise UserError(f"OPT's {key} must be a whole number, got {found[key]!r}")
    width = found["hidden_size"]
    for key, needed in (("ffn_dim", 4 * width), ("word_embed_proj_dim", width)):
        if found[key] not in (needed, None):
            raise UserError(
                f"OPT's {key} must be {needed} at a width of {width}, got {found[key]}; "
                "another network is not read"
            )
    config = ModelConfig(
        name,
        layers=found["num_hidden_layers"],
        width=width,
        heads=found["num_attention_heads"],
        context=found["max_position_embeddings"],
        tied=bool(found["tie_word_embeddings"]),
    )
    return _with_ids(config, values.get(OURS), vocabulary, found["vocab_size"])


def _with_ids(
    config: ModelConfig, ours: dict | None, vocabulary: VocabularyConfig | None, size: int
) -> ModelConfig:
    """The configuration with its id space: our own block's, else the one the caller says."""
    if ours is not None:
        if not isinstance(ours, dict) or "config" not in ours:
            raise UserError(f"config.json has a torn {OURS!r} block; export the model again")
        own = written_out(from_dict(ModelConfig, ours["config"]))
        silent = {key: getattr(own, key) for key in SILENT}
        if own.places != config.context:
            raise UserError(
                f"config.json says max_position_embeddings = {config.context}, its {OURS!r} block "
                f"means {own.places}; export the model again"
            )
        config = replace(config, **silent)
        if config != own:
            raise UserError(
                f"config.json says {_first_difference(config, own)} outside and inside its "
                f"{OURS!r} block; export the model again"
            )
    elif vocabulary is None:
        raise UserError(
            f"a plain OPT of {size} ids does not say which of them are text and which images; "
            "give --text-size, --image-size and --sentinels"
        )
    else:
        config = replace(config, vocabulary=vocabulary)
    padded = Vocabulary.from_config(config.vocabulary).size
    if padded != size:
        raise UserError(f"OPT's vocab_size is {size}, the id space has {padded}; they must agree")
    return config


def _first_difference(one: ModelConfig, other: ModelConfig) -> str:
    """The first field in which two configurations differ: `layers = 2 and 3`."""
    left, right = to_dict(one), to_dict(other)
    key = next(key for key in left if left[key] != right[key])
    return f"{key} = {left[key]} and {right[key]}"


def from_opt_state_dict(tensors: Mapping[str, Tensor], config: ModelConfig) -> dict[str, Tensor]:
    """State dict of our `Transformer(config)` of OPT's; bit for bit what was exported.

    Names may lack `model.` in front. Raises UserError for a tensor that is missing, unknown (a
    bias, an affine norm, a projection), of another shape, or a head that a tied model has not.
    """
    import torch

    tensors = {_full_name(name): value for name, value in tensors.items()}
    _check_tensors(tensors, config)
    embedding = tensors[BODY + "embed_tokens.weight"]
    state = {
        "token_embedding.weight": embedding,
        "position_embedding.weight": tensors[BODY + "embed_positions.weight"][ROWS:],
    }
    for index in range(config.layers):
        theirs, ours = f"{BODY}layers.{index}.", f"blocks.{index}."
        parts = [tensors[f"{theirs}self_attn.{name}_proj.weight"] for name in "qkv"]
        state[ours + "qkv.weight"] = torch.cat(parts)
        state[ours + "out.weight"] = tensors[f"{theirs}self_attn.out_proj.weight"]
        state[ours + "up.weight"] = tensors[f"{theirs}fc1.weight"]
        state[ours + "down.weight"] = tensors[f"{theirs}fc2.weight"]
    if not config.tied:
        state["head.weight"] = tensors[HEAD]
    elif HEAD in tensors and not torch.equal(tensors[HEAD], embedding):
        raise UserError(
            f"{HEAD} differs from the embedding although tie_word_embeddings is true; "
            "set it to false in config.json"
        )
    return state


def opt_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the tensors of OPT, the head included."""
    width, ids = config.width, Vocabulary.from_config(config.vocabulary).size
    shapes = {"embed_tokens.weight": (ids, width)}
    shapes["embed_positions.weight"] = (config.places + ROWS, width)
    for index in range(config.layers):
        layer = f"layers.{index}."
        for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
            shapes[f"{layer}self_attn.{name}.weight"] = (width, width)
        shapes[f"{layer}fc1.weight"] = (4 * width, width)
        shapes[f"{layer}fc2.weight"] = (width, 4 * width)
    return {BODY + name: shape for name, shape in shapes.items()} | {HEAD: (ids, width)}


def _full_name(name: str) -> str:
    """A name as OPTForCausalLM has it; the bare decoder's start with `decoder.`."""
    return f"model.{name}" if name.startswith("decoder.") else name


def _check_tensors(tensors: Mapping[str, Tensor], config: ModelConfig) -> None:
    """Raise for the first tensor that is strange, missing or of another shape or kind."""
    shapes = opt_shapes(config)
    if strange := sorted(set(tensors) - set(shapes)):
        raise UserError(
            f"the checkpoint has {strange[0]!r}, which a network without biases, affine norms and "
            "projections has not; another network is not read"
        )
    for name, shape in shapes.items():
        if name not in tensors:
            if name == HEAD and config.tied:
                continue
            raise UserError(f"the checkpoint lacks {name!r}; copy it again")
        if tuple(tensors[name].shape) != shape:
            raise UserError(
                f"{name!r} has shape {tuple(tensors[name].shape)}, its config.json means {shape}"
            )
        if not tensors[name].is_floating_point():
            raise UserError(f"{name!r} holds {tensors[name].dtype}; quantised weights are not read")
