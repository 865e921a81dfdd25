"""Training of the image tokenizer: k-means, the three stages, the moving codebook, exact resume."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cm3leon import seeds
from cm3leon.config import VQConfig
from cm3leon.errors import UserError
from cm3leon.tokenizers.vq import VQ
from cm3leon.tokenizers.vq_loss import VQLossConfig, VQTraining, compact_codes, kmeans, merge_codes

SHAPE = VQConfig(8, 8, (1, 2), 1, (), 6, 8, 4)
LOSS = VQLossConfig(plain_steps=3, freeze_step=6, decay=0.5, revive_every=100)


def made(loss: VQLossConfig = LOSS) -> VQTraining:
    with seeds.torch_default(0, "test"):
        return VQTraining(VQ(SHAPE), loss)


def batch(step: int) -> torch.Tensor:
    return torch.rand(2, 3, 8, 8, generator=seeds.torch_generator(0, "batch", step)) * 2 - 1


def run(training: VQTraining, steps) -> list[float]:
    """Losses of some steps of plain gradient descent."""
    losses = []
    for step in steps:
        training.zero_grad(set_to_none=True)
        loss, _ = training(batch(step), step)
        loss.backward()
        with torch.no_grad():
            for parameter in training.parameters():
                if parameter.grad is not None:
                    parameter -= 0.05 * parameter.grad
        losses.append(loss.item())
    return losses


def moved(training: VQTraining, step: int) -> set[str]:
    """Parts of the network that get a gradient at a step."""
    training.zero_grad(set_to_none=True)
    training(batch(step), step)[0].backward()
    return {
        name.removeprefix("vq.").split(".")[0]
        for name, parameter in training.named_parameters()
        if parameter.grad is not None and parameter.grad.abs().max() > 0
    }


@settings(max_examples=15)
@given(st.integers(0, 2**32), st.integers(2, 8), st.integers(1, 3))
def test_kmeans_finds_clusters_that_lie_apart(seed, count, width):
    generator = seeds.generator(seed, "clusters")
    centres = generator.permutation(8)[:count, None] * 10.0 * np.ones(width)
    owner = np.concatenate([np.arange(count), generator.integers(0, count, 60)])
    points = centres[owner] + generator.uniform(-0.01, 0.01, (len(owner), width))
    points_MD = torch.tensor(points, dtype=torch.float32)
    found = kmeans(points_MD, count, seeds.torch_generator(seed))
    assert found.shape == (count, width)
    means = np.stack([points[owner == k].mean(0) for k in range(count)])
    order, expected = found[:, 0].argsort(), means[means[:, 0].argsort()]
    assert np.allclose(found[order], expected, atol=1e-4)
    assert torch.equal(found, kmeans(points_MD, count, seeds.torch_generator(seed)))


def test_kmeans_of_fewer_points_than_codes():
    points_MD = torch.tensor([[0.0], [1.0], [1.0]])
    found = kmeans(points_MD, 5, seeds.torch_generator(0))
    assert found.shape == (5, 1) and set(found[:, 0].tolist()) == {0.0, 1.0}


def test_gradients_by_stage():
    training = made()
    codebook = training.vq.quantize.embedding.weight
    everything = {"encoder", "quant_conv", "post_quant_conv", "decoder"}
    for step in (1, 2):
        assert moved(training, step) == everything
    before = codebook.clone()
    assert moved(training, 3) == everything  # straight through the quantiser
    assert not torch.equal(codebook, before)
    assert moved(training, 5) == everything
    rested = {name: value.clone() for name, value in training.named_buffers()} | {"": codebook}
    before = codebook.clone()
    assert moved(training, 6) == {"post_quant_conv", "decoder"}
    assert torch.equal(codebook, before) and not codebook.requires_grad
    for name, value in training.named_buffers():
        assert torch.equal(value, rested[name])


def test_frozen_codes_stay_valid():
    training = made()
    run(training, range(1, 6))
    images = (batch(0).permute(0, 2, 3, 1) * 127 + 128).to(torch.uint8)
    codes, picture = training.vq.encode(images), training.vq.decode(training.vq.encode(images))
    run(training, range(6, 12))
    assert torch.equal(training.vq.encode(images), codes)
    assert (training.vq.decode(codes) != picture).any()  # the decoder learned on


def test_the_loss_of_each_stage():
    training = made(replace(LOSS, l1=2.0, l2=3.0, commitment=0.7))
    x = batch(1)

    def distance(y):
        return 2 * (y - x).abs().mean() + 3 * (y - x).square().mean()

    with torch.no_grad():
        z = training.vq.latents(x)
        loss, logged = training(x, 1)
        assert torch.allclose(loss, distance(training.vq.pictures(z)))
        assert set(logged) == {"l1", "psnr"}
        l2 = (training.vq.pictures(z) - x).square().mean()
        assert logged["psnr"] == pytest.approx(float(10 * torch.log10(4 / l2)), abs=1e-4)
        training(batch(2), 2)
        training(batch(3), 3)
        rows, _ = training._quantise(z)  # the table before step 4 moves it
        loss, logged = training(x, 4)
        commitment = (z - rows).square().mean()
        assert torch.allclose(loss, distance(training.vq.pictures(rows)) + 0.7 * commitment)
        assert logged["commitment"] == pytest.approx(commitment.item())
        assert 1 <= logged["perplexity"] <= 8
        loss, _ = training(x, 6)
        rows, _ = training._quantise(z)
        assert torch.allclose(loss, distance(training.vq.pictures(rows)))


def test_a_perceptual_distance_is_added():
    training = made(replace(LOSS, perceptual=0.5))
    plain, _ = training(batch(1), 1)
    training.perceptual = lambda y, x: (y - x).new_tensor(3.0)
    assert torch.allclose(training(batch(1), 1)[0], plain + 1.5)


def test_the_codebook_starts_as_kmeans_of_the_remembered_vectors():
    training = made()
    with torch.no_grad():
        remembered = [training.vq.latents(batch(step)) for step in (1, 2)]
        flat = torch.cat([z.permute(0, 2, 3, 1).reshape(-1, 4) for z in remembered])
        for step in (1, 2):
            training(batch(step), step)
        assert torch.equal(training.pool_MD[: len(flat)], flat)
        assert int(training.filled) == len(flat) == 64
        training._start_codebook()
    expected = kmeans(flat, 8, seeds.torch_generator(0, "kmeans"))
    assert torch.equal(training.vq.quantize.embedding.weight, expected)


def test_the_memory_is_a_ring_of_the_latest():
    training = made()
    size = len(training.pool_MD)
    steps = torch.arange(3.0)
    for value in steps:  # each batch fills two thirds of the ring
        training._remember(value.expand(1, 4, 1, size * 2 // 3 + 1))
    kept = training.pool_MD[:, 0].unique(return_counts=True)
    assert kept[0].tolist() == [1, 2] and kept[1][1] == size * 2 // 3 + 1
    crowd = torch.arange(float(2 * size)).expand(1, 4, 1, -1)  # more than it holds
    training._remember(crowd)
    assert torch.equal(training.pool_MD[:, 0].sort().values, crowd[0, 0, 0, size:])


def test_a_code_follows_the_mean_of_its_vectors():
    """Counts and sums move by N <- d N + (1 - d) n; the row is their quotient."""
    training = made()
    table = torch.arange(8.0)[:, None].expand(8, 4).clone()
    with torch.no_grad():
        training.vq.quantize.embedding.weight.copy_(table)
    training.sums_KD.copy_(table)
    z = torch.tensor([2.0, 2.5, 5.0, 2.0]).view(1, 1, 2, 2).expand(1, 4, 2, 2)
    training._follow(z, torch.tensor([2, 2, 5, 2]), step=1)
    rows = training.vq.quantize.embedding.weight[:, 0]
    assert training.counts_K.tolist() == [0.5, 0.5, 2.0, 0.5, 0.5, 1.0, 0.5, 0.5]
    expected = torch.arange(8.0)
    expected[2] = (0.5 * 2 + 0.5 * 6.5) / (0.5 * 1 + 0.5 * 3)
    assert torch.allclose(rows, expected)
    for step in range(2, 40):
        training._follow(z, torch.tensor([2, 2, 5, 2]), step)
    assert training.vq.quantize.embedding.weight[2, 0] == pytest.approx(6.5 / 3, abs=1e-5)


def test_idle_codes_go_where_vectors_are_served_worst():
    training = made(replace(LOSS, revive_every=4, revive_below=0.02))
    with torch.no_grad():
        training.vq.quantize.embedding.weight.zero_()
    training.sums_KD.zero_()
    training.counts_K.copy_(torch.tensor([9.0, 9, 9, 9, 9, 9, 0, 0]))
    far = torch.tensor([0.0, 7.0, 0.1, -9.0]).view(1, 1, 2, 2).expand(1, 4, 2, 2)
    training._follow(far, torch.zeros(4, dtype=torch.int64), step=3)
    assert not training.vq.quantize.embedding.weight[6:].any()  # not yet
    training._follow(far, torch.zeros(4, dtype=torch.int64), step=4)
    assert training.vq.quantize.embedding.weight[6:, 0].tolist() == [-9.0, 7.0]
    assert training.sums_KD[6:, 0].tolist() == [-9.0, 7.0]
    assert training.counts_K[6:].tolist() == [1.0, 1.0]


@pytest.fixture(scope="module")
def unbroken() -> list[float]:
    return run(made(), range(1, 9))


@pytest.mark.parametrize("stop", [2, 3, 5, 7])
def test_a_stopped_run_goes_on_exactly(stop, unbroken):
    first = made()
    run(first, range(1, stop + 1))
    saved = {name: value.clone() for name, value in first.state_dict().items()}
    resumed = made()
    with torch.no_grad():
        for parameter in resumed.parameters():
            parameter.zero_()
    resumed.load_state_dict(saved)
    assert run(resumed, range(stop + 1, 9)) == unbroken[stop:]


def test_evaluation_moves_nothing():
    training = made()
    run(training, range(1, 5))
    before = {name: value.clone() for name, value in training.state_dict().items()}
    training.eval()
    with torch.no_grad():
        training(batch(5), 5)
    for name, value in training.state_dict().items():
        assert torch.equal(value, before[name])


def table_of(places: list[float]) -> VQ:
    vq = VQ(replace(SHAPE, codebook_size=len(places)))
    with torch.no_grad():
        vq.quantize.embedding.weight.zero_()[:, 0] = torch.tensor(places)
    return vq


def test_near_codes_become_the_commonest_of_them():
    vq = table_of([0.0, 0.6, 1.2, 5.0, 5.1, 9.0])
    assert merge_codes(vq, torch.tensor([2, 9, 1, 3, 4, 0]), radius=1.0) == 3
    rows = vq.quantize.embedding.weight[:, 0].tolist()
    assert rows == pytest.approx([0.6, 0.6, 0.6, 5.1, 5.1, 9])
    z_MD = vq.quantize.embedding.weight + 0.01
    assert vq.quantize.codes(z_MD).tolist() == [0, 0, 0, 3, 3, 5]


@settings(max_examples=25)
@given(st.lists(st.integers(0, 30), min_size=1, max_size=10), st.integers(0, 9))
def test_merging_leaves_codes_that_lie_apart(places, seed):
    vq = table_of([place / 2 for place in places])
    before = vq.quantize.embedding.weight.clone()
    counts = torch.from_numpy(seeds.generator(seed, "counts").integers(0, 5, len(places)))
    left = merge_codes(vq, counts, radius=1.3)
    after = vq.quantize.embedding.weight
    apart = torch.pdist(after.unique(dim=0))
    assert len(after.unique(dim=0)) == left and (apart >= 1.3).all()
    assert ((after - before).norm(dim=1) < 1.3).all()  # nobody goes far
    assert (after[counts.argmax()] == before[counts.argmax()]).all()  # the commonest stays
    assert merge_codes(vq, counts, radius=1.3) == left  # and once is enough


@settings(max_examples=25)
@given(st.lists(st.integers(0, 30), min_size=1, max_size=10), st.integers(0, 9))
def test_compacting_renames_codes_and_changes_no_picture(places, seed):
    """Merged, then compacted: the same rows decoded, few codes, none named that fills up."""
    vq = table_of([place / 2 for place in places])
    random = seeds.generator(seed, "use")
    z_MD = torch.zeros(40, vq.config.code_dim)
    z_MD[:, 0] = torch.from_numpy(random.uniform(0, 15, 40)).float()
    merge_codes(vq, torch.from_numpy(random.integers(0, 5, len(places))), radius=1.3)
    codes = vq.quantize.codes(z_MD)
    counts = torch.bincount(codes, minlength=len(places))
    smaller = compact_codes(vq, counts, multiple=4)
    renamed = smaller.quantize.codes(z_MD)
    assert torch.equal(smaller.quantize.vectors(renamed), vq.quantize.vectors(codes))
    left, size = int((counts > 0).sum()), smaller.config.codebook_size
    assert size % 4 == 0 and size - 4 < left <= size == len(smaller.quantize.embedding.weight)
    assert int(renamed.max()) == left - 1 and len(renamed.unique()) == left
    assert (torch.bincount(renamed).diff() <= 0).all()  # the commonest first
    spare = smaller.quantize.embedding.weight[left:]
    assert torch.equal(spare, smaller.quantize.embedding.weight[:1].expand_as(spare))
    assert smaller.decode(torch.full((1, 4), size - 1)).any()
    everything = smaller.quantize.codes(smaller.quantize.embedding.weight)
    assert int(everything.max()) < left


def test_a_gumbel_tokenizer_is_refused():
    with pytest.raises(UserError, match=r"vq\.quantiser must be 'nearest' to train, got 'gumbel'"):
        VQTraining(VQ(replace(SHAPE, quantiser="gumbel")), LOSS)
