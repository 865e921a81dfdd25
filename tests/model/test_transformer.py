"""The network: counts, first loss, parity with Hugging Face's OPT, cache = full forward.

Axes as in cm3leon/model/transformer.py.
"""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from cm3leon import config as configs
from cm3leon.config import ModelConfig, VocabularyConfig
from cm3leon.errors import UserError
from cm3leon.model import transformer
from cm3leon.model.transformer import IGNORE, Transformer
from cm3leon.seeds import torch_generator
from cm3leon.sequence.documents import Vocabulary

TINY = ModelConfig(
    "tiny", layers=2, width=32, heads=4, context=24, vocabulary=VocabularyConfig(30, 20, 6, 16)
)
# Standard deviation of a standard normal cut at 3: sqrt(1 - 6 phi(3) / (2 Phi(3) - 1)).
CUT = math.sqrt(1 - 6 * math.exp(-4.5) / math.sqrt(2 * math.pi) / math.erf(3 / math.sqrt(2)))


def randomise(model: Transformer, std: float = 0.2) -> Transformer:
    """Every matrix random, residual outputs too: a network whose every part shows in the logits."""
    generator = torch_generator(1, "test weights")
    with torch.no_grad():
        for weight in model.parameters():
            weight.copy_(torch.randn(weight.shape, generator=generator) * std)
    return model.eval()


def random_ids(*shape: int, size: int = 64, seed: int = 0) -> torch.Tensor:
    return torch.randint(0, size, shape, generator=torch_generator(seed, "ids"))


@pytest.fixture(scope="module")
def model() -> Transformer:
    return randomise(Transformer(TINY))


@pytest.mark.parametrize(
    ("name", "tied", "millions"),
    [
        ("350m", True, 373.3),
        ("760m", True, 786.4),
        ("7b", True, 6727.7),
        ("350m", False, 440.4),
        ("760m", False, 887.1),
        ("7b", False, 6996.1),
    ],
)
def test_parameter_counts_are_table_3s(name, tied, millions):
    config = replace(configs.MODELS[name](), tied=tied)
    with torch.device("meta"):
        counted = sum(weight.numel() for weight in Transformer(config).parameters())
    assert counted == config.parameters
    assert counted / 1e6 == pytest.approx(millions, rel=1e-3)


@given(st.tuples(*[st.integers(1, 600)] * 4))
def test_the_vocabulary_has_one_size(sizes):
    assert VocabularyConfig(*sizes).size == Vocabulary(*sizes).size


def test_initial_weights():
    model = Transformer(replace(TINY, width=128, tied=False))
    for name, weight in model.named_parameters():
        if name.endswith(("out.weight", "down.weight")):
            assert (weight == 0).all(), name
            continue
        std = 0.0002 if name.startswith("position") else 0.006
        assert weight.abs().max() <= 3 * std * (1 + 1e-6), name
        assert weight.std().item() == pytest.approx(CUT * std, rel=0.05), name
    again = Transformer(replace(TINY, width=128, tied=False)).state_dict()
    assert all((weight == again[name]).all() for name, weight in model.state_dict().items())
    other = Transformer(TINY, torch_generator(5)).token_embedding.weight
    assert (other != Transformer(TINY).token_embedding.weight).any()


def expected_first_loss(config: ModelConfig) -> float:
    """Nats for a target that is not the current token, tied head, every block the identity.

    h = token + position, so LN(h) has logit d s^2 / sqrt(s^2 + p^2) with its own token and a normal
    one of variance d s^2 with any other: ln(e^own + (V - 1) e^(d s^2 / 2)).
    """
    token, position = CUT * config.init_std, CUT * config.position_std
    own = config.width * token**2 / math.hypot(token, position)
    others = (config.vocabulary.size - 1) * math.exp(config.width * token**2 / 2)
    return math.log(math.exp(own) + others)


@pytest.mark.parametrize("config", [configs.scenes_s(), configs.scenes_xs()], ids=lambda c: c.name)
def test_first_loss_in_small(config):
    model = Transformer(replace(config, layers=1, positions="row"))
    # Two halves of the text ids, so that no target repeats its token.
    ids = random_ids(16, 100, size=250) + 250 * (torch.arange(100) % 2)
    losses = model.loss_per_token(ids).detach()
    assert losses.mean().item() == pytest.approx(expected_first_loss(config), abs=0.03)


def test_first_loss_at_paper_size():
    assert expected_first_loss(configs.cm3leon_350m()) == pytest.approx(11.12, abs=0.01)
    # The larger sizes start nearer to "repeat the last token" (tied head); the cut at 3 standard
    # deviations takes 1.3 % off the plain 0.006 d, which would give 11.26 and 24.6.
    assert expected_first_loss(configs.cm3leon_760m()) == pytest.approx(11.241, abs=0.005)
    assert expected_first_loss(configs.cm3leon_7b()) == pytest.approx(24.233, abs=0.005)
    # Its width, fewer ids: the loss leans more on the current token's logit (6.06 of ln 8,704).
    vocabulary = VocabularyConfig(6_000, 2_048, 512, 512)
    config = replace(configs.cm3leon_350m(), layers=1, context=64, vocabulary=vocabulary)
    ids = random_ids(4, 64, size=3_000) + 3_000 * (torch.arange(64) % 2)
    with torch.no_grad():
        losses = Transformer(config).loss_per_token(ids)
    assert losses.mean().item() == pytest.approx(expected_first_loss(config), abs=0.05)


def test_a_zero_untied_head_starts_at_the_uniform_loss():
    model = Transformer(replace(TINY, tied=False))
    model.head.weight.data.zero_()
    losses = model.loss_per_token(random_ids(3, 20))
    torch.testing.assert_close(losses, torch.full((3, 19), math.log(64)))


def test_blocks_start_as_the_identity():
    model = Transformer(TINY)
    ids = random_ids(2, 9)
    plain = model.token_embedding(ids) + model.position_embedding.weight[:9]
    torch.testing.assert_close(model.hidden(ids), F.layer_norm(plain, (32,)))


@given(st.integers(1, 19), st.integers(0, 2**31))
@settings(max_examples=20, deadline=None)
def test_no_token_sees_a_later_one(cut, seed):
    model = randomise(Transformer(TINY))
    ids, changed = random_ids(1, 20, seed=seed), random_ids(1, 20, seed=seed)
    changed[:, cut:] = (changed[:, cut:] + 1) % 64
    with torch.no_grad():
        difference = (model(ids) - model(changed)).abs().amax(-1)[0]
    assert difference[:cut].max() < 1e-5 < difference[cut]


def test_positions_are_indices_unless_given(model):
    ids = random_ids(2, 10)
    positions = torch.arange(10).expand(2, 10)
    with torch.no_grad():
        torch.testing.assert_close(model(ids, positions), model(ids))
        assert (model(ids, positions + 3) - model(ids)).abs().max() > 0.01


RAGGED = [(1, [5]), (3, [7, 7, 7]), (5, [1, 12, 3, 12, 8])]


@pytest.mark.parametrize(("rows", "lengths"), RAGGED)
@pytest.mark.parametrize("at_once", [1, 2**12])
@pytest.mark.parametrize("tied", [True, False])
def test_cache_equals_full_forward(rows, lengths, at_once, tied, monkeypatch):
    monkeypatch.setattr(transformer, "PROMPT_TOKENS_AT_ONCE", at_once)
    model = randomise(Transformer(replace(TINY, tied=tied)))
    ids, lengths, row = random_ids(rows, 24), torch.tensor(lengths), torch.arange(rows)
    with torch.no_grad():
        full = model(ids)
    cache = model.cache(rows, 24)
    prompts = ids.masked_fill(torch.arange(24) >= lengths[:, None], 0)
    for _ in range(2):  # a used cache starts anew
        logits = model.prefill(prompts, lengths, cache)
        torch.testing.assert_close(logits, full[row, lengths - 1], rtol=1e-4, atol=1e-5)
    for added in range(24 - int(lengths.max())):
        places = lengths + added
        logits = model.step(ids[row, places], cache, 30, 50)
        torch.testing.assert_close(logits, full[row, places, 30:50], rtol=1e-4, atol=1e-5)
    assert cache.longest == 24 and cache.lengths_B.tolist() == (lengths + added + 1).tolist()
    with pytest.raises(UserError, match="full at 24 tokens"):
        model.step(ids[:, 0], cache)


@given(st.lists(st.integers(1, 40), min_size=1, max_size=30), st.integers(1, 100))
def test_prompts_are_read_in_pieces_with_little_padding(lengths, most):
    found = transformer.pieces(lengths, most)
    assert [row for rows, _ in found for row in range(rows.start, rows.stop)] == [
        *range(len(lengths))
    ]
    for (rows, longest), (following, _) in zip(found, [*found[1:], (None, 0)], strict=True):
        count = rows.stop - rows.start
        assert longest == max(lengths[rows])
        assert count == 1 or count * longest <= most
        if following:
            assert (count + 1) * max(longest, lengths[following.start]) > most


def test_cache_in_bfloat16(model):
    half = randomise(Transformer(TINY)).bfloat16()
    ids, lengths = random_ids(2, 8), torch.tensor([4, 6])
    cache = half.cache(2, 10)
    assert cache.kv.dtype == torch.bfloat16
    assert half.prefill(ids, lengths, cache).dtype == torch.float32
    logits = half.step(ids[[0, 1], lengths], cache)
    with torch.no_grad():
        exact = model(ids)[[0, 1], lengths]
    assert logits.dtype == torch.float32
    # 8 bits of mantissa through two layers: logits of size |exact|.max() within 3 % of it.
    assert (logits.float() - exact).abs().max() < 0.03 * exact.abs().max()


@pytest.mark.parametrize("heads", [[3, 3, 3, 3], [1, 5, 2, 9]], ids=["even", "ragged"])
def test_reading_in_two_parts_equals_reading_at_once(model, heads):
    ids, row = random_ids(4, 20, seed=5), torch.arange(4)
    first, lengths = torch.tensor(heads), torch.tensor([12, 6, 12, 20])
    whole = model.cache(4, 24)
    wanted = [model.prefill(ids, lengths, whole)]
    parts = model.cache(4, 24)
    model.prefill(ids[:, : max(heads)], first, parts)
    rest = torch.zeros(4, 19, dtype=torch.int64)
    for at in range(4):
        rest[at, : lengths[at] - first[at]] = ids[at, first[at] : lengths[at]]
    found = [model.extend(rest, lengths - first, parts)]
    for _ in range(3):
        for logits, cache in ((wanted, whole), (found, parts)):
            logits.append(model.step(row + 7, cache))
    for ours, exact in zip(found, wanted, strict=True):
        torch.testing.assert_close(ours, exact, rtol=1e-4, atol=1e-5)
    assert parts.lengths_B.tolist() == [15, 9, 15, 23] and parts.longest == 23


def test_rows_of_a_cache_can_be_copied(model):
    ids, lengths = random_ids(3, 8), torch.tensor([8, 5, 7])
    few, many = model.cache(3, 8), model.cache(5, 12)
    logits = model.prefill(ids, lengths, few)
    places = torch.tensor([2, 0, 1, 1, 2])
    many.copy(few, places)
    assert many.lengths_B.tolist() == [7, 8, 5, 5, 7]
    again = model.cache(5, 12)
    torch.testing.assert_close(model.prefill(ids[places], lengths[places], again), logits[places])
    token = torch.arange(5)
    torch.testing.assert_close(
        model.step(token, many), model.step(token, again), rtol=1e-4, atol=1e-5
    )


def test_reading_on_beyond_the_cache(model):
    cache = model.cache(2, 6)
    model.prefill(random_ids(2, 4), torch.tensor([4, 2]), cache)
    with pytest.raises(UserError, match="2 rows of up to 7 tokens do not fit a cache of 2 rows"):
        model.extend(random_ids(2, 3), torch.tensor([3, 3]), cache)


@pytest.fixture(scope="module")
def opt(model):
    """OPT with the weights of `model`: two position rows prepended; q, k and v apart."""
    transformers = pytest.importorskip("transformers")
    settings_ = transformers.OPTConfig(
        vocab_size=64, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, ffn_dim=128,
        max_position_embeddings=24, word_embed_proj_dim=32, activation_function="relu",
        do_layer_norm_before=True, enable_bias=False, layer_norm_elementwise_affine=False,
        dropout=0.0, attention_dropout=0.0, layerdrop=0.0, tie_word_embeddings=True,
        pad_token_id=None,
    )  # fmt: skip
    weights = {"embed_tokens.weight": model.token_embedding.weight}
    weights["embed_positions.weight"] = F.pad(model.position_embedding.weight, (0, 0, 2, 0))
    for index, block in enumerate(model.blocks):
        layer = f"layers.{index}."
        for name, part in zip("qkv", block.qkv.weight.chunk(3), strict=True):
            weights[f"{layer}self_attn.{name}_proj.weight"] = part
        weights[layer + "self_attn.out_proj.weight"] = block.out.weight
        weights[layer + "fc1.weight"] = block.up.weight
        weights[layer + "fc2.weight"] = block.down.weight
    opt = transformers.OPTForCausalLM(settings_).eval()
    opt.model.decoder.load_state_dict({name: part.detach() for name, part in weights.items()})
    assert sum(part.numel() for part in opt.parameters()) == TINY.parameters + 2 * 32
    return opt


def test_logits_equal_opts(model, opt):
    ids = random_ids(5, 24)
    with torch.no_grad():
        torch.testing.assert_close(model(ids), opt(ids).logits, rtol=1e-4, atol=1e-5)


def test_cached_logits_equal_opts_on_ragged_prompts(model, opt):
    ids, lengths, row = random_ids(5, 24, seed=3), torch.tensor([1, 12, 3, 12, 8]), torch.arange(5)
    cache = model.cache(5, 24)
    logits = [model.prefill(ids, lengths, cache)]
    logits += [model.step(ids[row, lengths + added], cache) for added in range(6)]
    for added, ours in enumerate(logits):
        for index in range(5):  # one row at a time: no padding in the oracle
            with torch.no_grad():
                theirs = opt(ids[index : index + 1, : int(lengths[index]) + added]).logits[0, -1]
            torch.testing.assert_close(ours[index], theirs, rtol=1e-4, atol=1e-5)


def test_loss_is_the_cross_entropy_of_the_next_token(model):
    ids = random_ids(3, 12)
    with torch.no_grad():
        log_probabilities = model(ids).log_softmax(-1)
        losses = model.loss_per_token(ids)
    plain = -log_probabilities[:, :-1].gather(-1, ids[:, 1:, None])[..., 0]
    assert losses.shape == (3, 11) and losses.dtype == torch.float32
    torch.testing.assert_close(losses, plain)


@pytest.mark.parametrize("limit", [64, 7 * 64, 2**26])
def test_loss_in_pieces_equals_loss_in_one(limit, monkeypatch):
    model = randomise(Transformer(TINY))
    ids, weights = random_ids(3, 12), random_ids(3, 12, size=3).float()
    logits = model(ids[:, :-1]).flatten(0, 1)
    plain = F.cross_entropy(logits, ids[:, 1:].flatten(), reduction="none").view(3, 11)
    plain = plain * (weights[:, 1:] != 0)
    wanted = torch.autograd.grad((plain * weights[:, 1:]).sum(), list(model.parameters()))
    monkeypatch.setattr(transformer, "LOGITS_AT_ONCE", limit)
    losses = model.loss_per_token(ids, weights)
    torch.testing.assert_close(losses, plain)
    found = torch.autograd.grad((losses * weights[:, 1:]).sum(), list(model.parameters()))
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)


def test_ignored_targets_have_no_loss(model):
    ids = random_ids(2, 6)
    targets = ids.clone()
    targets[0] = IGNORE
    losses = model(ids, targets_BT=targets)
    assert (losses[0] == 0).all() and (losses[1] > 0).all()


BAD_CALLS = {
    r"ids must lie in \[0, 64\), got 64": lambda m: m(torch.tensor([[3, 64]])),
    r"ids must lie in \[0, 64\), got -1": lambda m: m(torch.tensor([[3, -1]])),
    "25 tokens exceeds model.context 24": lambda m: m(random_ids(1, 25)),
    r"got torch.float32 of shape \[1, 4\]": lambda m: m(torch.zeros(1, 4)),
    r"got torch.int64 of shape \[2, 0\]": lambda m: m(torch.zeros(2, 0, dtype=torch.int64)),
    r"positions must lie in \[0, 24\), got 24": lambda m: m(
        random_ids(1, 2), torch.tensor([[23, 24]])
    ),
    r"targets must lie in \[0, 64\), got 70": lambda m: m.loss_per_token(torch.tensor([[3, 70]])),
    r"targets of shape \[1, 3\] do not match": lambda m: m(
        random_ids(1, 4), targets_BT=random_ids(1, 3)
    ),
    r"weights of shape \[4\] do not match": lambda m: m.loss_per_token(
        random_ids(1, 4), torch.ones(4)
    ),
    r"ids \[5, 5\) must be a range inside \[0, 64\)": lambda m: m.logits(torch.zeros(1, 32), 5, 5),
    "holds 1 to 24 tokens a row .*, got 25": lambda m: m.cache(1, 25),
    r"lengths must lie in \[1, 4\], got 5": lambda m: m.prefill(
        random_ids(1, 4), torch.tensor([5]), m.cache(1, 9)
    ),
    r"2 prompts need 2 lengths, got shape \[1\]": lambda m: m.prefill(
        random_ids(2, 4), torch.tensor([4]), m.cache(2, 9)
    ),
    "do not fit a cache of 3 rows and 9 tokens": lambda m: m.prefill(
        random_ids(2, 4), torch.tensor([4, 4]), m.cache(3, 9)
    ),
}


@pytest.mark.parametrize("message", BAD_CALLS)
def test_mistakes_get_one_line(model, message):
    with pytest.raises(UserError, match=message) as caught:
        BAD_CALLS[message](model)
    assert "\n" not in str(caught.value)


def test_recomputing_activations_gives_the_same_gradients(monkeypatch):
    """And it does recompute: every block runs again in the backward pass."""
    ids_BT, runs, found = random_ids(2, 12), [], {}
    forward = transformer.Block.forward
    monkeypatch.setattr(
        transformer.Block, "forward", lambda *given: runs.append(1) or forward(*given)
    )
    for recompute in (False, True):
        model = randomise(Transformer(TINY)).train()
        model.recompute = recompute
        model.loss_per_token(ids_BT).mean().backward()
        found[recompute] = [weight.grad for weight in model.parameters()], len(runs)
        runs.clear()
    assert (found[False][1], found[True][1]) == (TINY.layers, 2 * TINY.layers)
    for one, other in zip(found[False][0], found[True][0], strict=True):
        assert torch.equal(one, other)
