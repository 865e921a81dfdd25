"""LlamaGen's transformer against a restatement in numpy, complex numbers and whole forwards."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.systems.llamagen_model import (
    LlamaGenConfig,
    draw_codes,
    find_tensors,
    infer_config,
    load_network,
    masks,
    rotate,
    shapes,
    turns,
)
from cm3leon.decoding.config import DecodeConfig
from cm3leon.errors import UserError
from cm3leon.seeds import generator, torch_generator

CONFIG = LlamaGenConfig(16, 2, 2, 24, 40, 12, 6, 3)


def random_tensors(config: LlamaGenConfig = CONFIG) -> dict[str, torch.Tensor]:
    """Weights of the published names, in which every part counts."""
    rng = torch_generator(0, "llamagen")
    noise = {name: torch.randn(shape, generator=rng) for name, shape in shapes(config).items()}
    return {
        name: 1 + 0.2 * one if one.ndim == 1 else one / one.shape[1] ** 0.5
        for name, one in noise.items()
    }


def network(config: LlamaGenConfig = CONFIG):
    return load_network(random_tensors(config), config, torch.float32)


def sample(words: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """T5's vectors of a caption of so many tokens, and where they are."""
    rng = generator(seed, "caption")
    caption_CW = np.zeros((CONFIG.captions, CONFIG.caption_width))
    caption_CW[CONFIG.captions - words :] = rng.normal(size=(words, CONFIG.caption_width))
    return caption_CW, np.arange(CONFIG.captions) >= CONFIG.captions - words


def plain_logits(tensors, config, caption_CW, real_C, codes) -> np.ndarray:
    """What follows the caption and these codes: one whole forward in float64, no cache."""
    w = {name: one.double().numpy() for name, one in tensors.items()}

    def norm(x, name):
        return x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-5) * w[f"{name}.weight"]

    hidden = caption_CW @ w["cls_embedding.cap_proj.fc1.weight"].T
    hidden = 0.5 * hidden * (1 + np.tanh(np.sqrt(2 / np.pi) * (hidden + 0.044715 * hidden**3)))
    x = hidden @ w["cls_embedding.cap_proj.fc2.weight"].T
    x = np.concatenate([x, w["tok_embeddings.weight"][np.array(codes, int)]])
    size = config.width // config.heads
    for name in (f"layers.{k}" for k in range(config.layers)):
        normed = norm(x, f"{name}.attention_norm")
        out = np.zeros_like(x)
        weight = w[f"{name}.attention.wqkv.weight"]
        for head in range(config.heads):
            q, k, v = (
                normed @ weight[start + head * size : start + (head + 1) * size].T
                for start in (0, config.width, 2 * config.width)
            )
            q, k = plain_turn(q, config), plain_turn(k, config)
            for t in range(len(x)):
                seen = [s for s in range(t + 1) if s >= len(real_C) or real_C[s] or s == t]
                score = np.array([q[t] @ k[s] for s in seen]) / np.sqrt(size)
                share = np.exp(score - score.max())
                out[t, head * size : (head + 1) * size] = share @ v[seen] / share.sum()
        x = x + out @ w[f"{name}.attention.wo.weight"].T
        normed = norm(x, f"{name}.ffn_norm")
        gate, up = (normed @ w[f"{name}.feed_forward.w{k}.weight"].T for k in (1, 3))
        x = x + (gate / (1 + np.exp(-gate)) * up) @ w[f"{name}.feed_forward.w2.weight"].T
    return norm(x[-1], "norm") @ w["output.weight"].T


def plain_turn(x_TE: np.ndarray, config) -> np.ndarray:
    """2-D rotation by complex numbers: a pair is one number; nothing is left at the caption."""
    pairs = x_TE[:, 0::2] + 1j * x_TE[:, 1::2]
    count = pairs.shape[1] // 2
    for t in range(len(pairs)):
        if t < config.captions:
            pairs[t] = 0
            continue
        row, column = divmod(t - config.captions, config.grid)
        for j in range(count):
            speed = 10_000 ** (-j / count)
            pairs[t, j] *= np.exp(1j * row * speed)
            pairs[t, count + j] *= np.exp(1j * column * speed)
    return np.stack([pairs.real, pairs.imag], -1).reshape(x_TE.shape)


@settings(max_examples=40)
@given(
    st.integers(1, 6), st.floats(1, 8), st.integers(1, 9), st.floats(0, 0.999), st.integers(0, 9)
)
def test_cached_drawing_is_whole_forwards(words, scale, steps, uniform, seed):
    """Greedy and sampled, with and without guidance, for captions of every length."""
    net = network()
    caption_CW, real_C = sample(words, seed)
    guided = DecodeConfig(guidance=scale, temperature=0 if seed % 2 else 1.0, top_k=7)
    uniforms = torch.full((1, CONFIG.grid**2), uniform, dtype=torch.float64)
    drawn = draw_codes(
        net, torch.tensor(caption_CW[None]).float(), torch.tensor(real_C[None]), uniforms, guided
    )[0].tolist()
    place = steps - 1
    free_CW = net.tensors["cls_embedding.uncond_embedding"].double().numpy()
    cond, free = (
        plain_logits(net.tensors, CONFIG, one, real_C, drawn[:place])
        for one in (caption_CW, free_CW)
    )
    combined = free + scale * (cond - free)
    if seed % 2:
        best = np.sort(combined)[-2:]
        assert drawn[place] == combined.argmax() or best[1] - best[0] < 1e-3
        return
    kept = np.where(combined >= np.sort(combined)[-7], combined, -np.inf)
    share = np.exp(kept - kept.max())
    cdf = (share / share.sum()).cumsum()
    low = cdf[drawn[place] - 1] if drawn[place] else 0.0
    assert low - 1e-3 <= uniform <= cdf[drawn[place]] + 1e-3 and share[drawn[place]] > 0


def test_samples_of_a_batch_do_not_touch_each_other():
    net, captions = network(), [sample(words, words) for words in (1, 4, 6)]
    caption_BCW = torch.tensor(np.stack([one for one, _ in captions])).float()
    real_BC = torch.tensor(np.stack([real for _, real in captions]))
    uniforms = torch.rand((3, 9), generator=torch_generator(0, "u"), dtype=torch.float64)
    decode = DecodeConfig(guidance=3, temperature=1.0)
    together = draw_codes(net, caption_BCW, real_BC, uniforms, decode)
    for b in range(3):
        one = slice(b, b + 1)
        alone = draw_codes(net, caption_BCW[one], real_BC[one], uniforms[one], decode)
        assert torch.equal(together[one], alone)
    assert len({tuple(row.tolist()) for row in together}) == 3


def test_what_is_left_of_the_caption_counts_for_nothing():
    net, (caption_CW, real_C) = network(), sample(3)
    other_CW = caption_CW.copy()
    other_CW[~real_C] = 5.0
    uniforms = torch.rand((1, 9), generator=torch_generator(1, "u"), dtype=torch.float64)
    drawn = [
        draw_codes(
            net, torch.tensor(one[None]).float(), torch.tensor(real_C[None]), uniforms,
            DecodeConfig(guidance=2, temperature=1.0),
        )
        for one in (caption_CW, other_CW)
    ]  # fmt: skip
    assert torch.equal(*drawn)


def test_a_rotation_keeps_lengths_and_sees_offsets_alone():
    config = LlamaGenConfig(8, 1, 1, 8, 4, 4, 0, 5)
    turns_KE2 = turns(config)
    q, k = torch.randn((2, 8), generator=torch_generator(0, "qk"))
    q_all, k_all = (rotate(one.expand(25, 1, 8), turns_KE2)[:, 0] for one in (q, k))
    assert torch.allclose(q_all.norm(dim=1), q.norm().expand(25), atol=1e-5)
    products = q_all @ k_all.T
    for a, b, c, d in ((0, 6, 12, 18), (1, 5, 13, 17), (2, 2, 24, 24)):  # the same offsets
        assert products[a, b] == pytest.approx(float(products[c, d]), abs=1e-5)
    assert not torch.allclose(products[0, 1], products[0, 5], atol=1e-3)  # row and column differ
    assert not turns(CONFIG)[: CONFIG.captions].any()


def test_a_mask_shows_words_before_and_the_place_itself():
    seen = masks(torch.tensor([[False, True]]), 4)[0, 0]
    wanted = [[1, 0, 0, 0], [0, 1, 0, 0], [0, 1, 1, 0], [0, 1, 1, 1]]
    assert torch.equal(seen, torch.tensor(wanted, dtype=torch.bool))


def test_sizes_come_from_shapes():
    tensors = random_tensors()
    assert infer_config(tensors, 3, 2) == CONFIG
    with pytest.raises(UserError, match="a width of 16 is none of the published; say heads=NUMBER"):
        infer_config(tensors, 3)
    with pytest.raises(UserError, match="heads must cut a width of 16 into multiples of 4, got 3"):
        infer_config(tensors, 3, 3)
    wide = {
        "tok_embeddings.weight": torch.zeros(16384, 1280),
        "cls_embedding.uncond_embedding": torch.zeros(120, 2048),
        "layers.35.ffn_norm.weight": torch.zeros(1280),
        "layers.0.feed_forward.w1.weight": torch.zeros(3584, 1280),
    }
    assert infer_config(wide, 16) == LlamaGenConfig(1280, 36, 20, 3584, 16384, 2048, 120, 16)
    for part in ("model", "module", "state_dict"):
        assert find_tensors({part: {**wide, "freqs_cis": torch.zeros(1)}, "steps": 3}) == wide


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: w.pop("layers.1.attention.wo.weight"), "no 'layers.1.attention.wo.weight' (1 a"),
        (lambda w: w.update(extra=torch.zeros(1)), "'extra', which has no place"),
        (lambda w: w.update({"norm.weight": torch.zeros(3)}), "norm.weight is [3], expected [16]"),
        (lambda w: w["norm.weight"].fill_(float("nan")), "norm.weight is not finite"),
        (lambda w: w.pop("layers.0.feed_forward.w1.weight"), "no 'layers.0.feed_forward.w1"),
    ],
)
def test_weights_that_do_not_fit(change, message):
    tensors = random_tensors()
    change(tensors)
    with pytest.raises(UserError) as caught:
        load_network(tensors, infer_config(tensors, 3, 2), torch.float32)
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_other_checkpoints():
    with pytest.raises(UserError, match=r"class-conditional LlamaGen \(c2i\)"):
        find_tensors({"model": {"cls_embedding.embedding_table.weight": torch.zeros(2, 2)}})
    for content in ({}, [], {"model": {"x": torch.zeros(1)}}):
        with pytest.raises(UserError, match="no text-to-image LlamaGen: it lacks tok_embeddings"):
            find_tensors(content)
