"""Caption -> documents: the strategy's answer, the same in any batch, and banks that do not fit."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from cm3leon import checkpoint
from cm3leon.clip import ClipConfig, load_clip, make_clip
from cm3leon.config import RetrievalConfig, to_dict
from cm3leon.data.sources import Scenes
from cm3leon.data.token_cache import TokenCache, encode
from cm3leon.errors import UserError
from cm3leon.identity import seal
from cm3leon.loading import load_system
from cm3leon.retrieval.bank import MemoryBank
from cm3leon.retrieval.packed import BANK, pack
from cm3leon.retrieval.select import Query, select
from cm3leon.sequence.documents import Image, parse_prompt
from tests.test_pipeline import PROMPTS, SEEDS, random_state, write_tiny_baselines

SMALL = ClipConfig(
    width=16, heads=2, image_layers=1, text_layers=1, image_size=32, text_size=300, context=32
)
TWO = RetrievalConfig(documents=2, by="text", threshold=2.0)


def add_bank(folder, count: int = 24) -> None:
    """CLIP of random weights and a bank of tiny scenes beside a model, named in its config."""
    home = folder.parent
    system = load_system(folder)
    clip = random_state(make_clip(SMALL), 0.3)
    extra = {"text_sha256": system.text.digest}
    checkpoint.save(home / "clip", "clip", SMALL, clip, extra)
    source = Scenes("stock", "bank", 0, count, 32)
    cache = encode(source, system.vq, system.text, home / "tokens", clip=load_clip(home / "clip"))
    pack(cache, MemoryBank.of_cache(cache), home / "bank" / BANK)
    _, tensors, extra = checkpoint.load(folder, "transformer")
    config = replace(system.model.config, context=300)
    tensors["position_embedding.weight"] = torch.randn(300, 32) * 0.3
    extra |= {"retrieval": to_dict(TWO)}
    checkpoint.save(folder, "transformer", config, tensors, extra)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    torch.manual_seed(0)
    folder = write_tiny_baselines(tmp_path_factory.mktemp("baselines"))
    add_bank(folder)
    return folder


@pytest.fixture(scope="module")
def system(folder):
    return load_system(folder)


def test_the_recipe_decides_how_many(system, folder):
    assert system.retriever.config == TWO and system.config["documents"] == 2
    assert load_system(folder, documents=0).config["documents"] == 0
    one = load_system(folder, documents=1)
    assert [len(found) for found in one.documents(PROMPTS)] == [1] * len(PROMPTS)


def test_found_as_the_strategy_says(system):
    retriever = system.retriever
    texts = np.concatenate([retriever.clip.texts([prompt]) for prompt in PROMPTS])
    rows = select(Query(texts=texts), retriever.bank, TWO)
    np.testing.assert_array_equal(retriever.rows(PROMPTS), rows)
    for found, row in zip(system.documents(PROMPTS), rows, strict=True):
        assert found == [retriever.documents.document(int(one)) for one in row]
    np.testing.assert_array_equal(retriever.rows(PROMPTS[2:3]), rows[2:3])  # not of the batch
    assert retriever.with_config(replace(TWO, documents=0)).rows(PROMPTS).shape == (5, 0)
    assert retriever.find([]) == []


def test_the_documents_stand_in_the_prompt(system):
    found = system.documents(PROMPTS)[0]
    prompt = parse_prompt(system.prompt(PROMPTS[0], found), system.vocabulary)
    segments = [segment for document in found for segment in document.segments]
    assert list(prompt.segments[:-1]) == segments and prompt.asks == "image"
    alone = system.with_retrieval(replace(TWO, documents=0))
    drawn = system.draw_codes(PROMPTS, SEEDS)
    assert (drawn != alone.draw_codes(PROMPTS, SEEDS)).any()
    assert (drawn == system.draw_with(PROMPTS, system.documents(PROMPTS), SEEDS)).all()


def test_batches_cannot_be_seen(system):
    whole = system.draw(PROMPTS, SEEDS)
    for size in (1, 2):
        np.testing.assert_array_equal(replace(system, batch_size=size).draw(PROMPTS, SEEDS), whole)


def test_pictures_alone_as_documents(system):
    pictures = system.with_retrieval(replace(TWO, modality="image"))
    for found in pictures.documents(PROMPTS):
        assert all(isinstance(part, Image) for one in found for part in one.segments)


def test_what_moves_the_drawing_is_in_the_config(system, folder):
    about = system.config["retrieval"]
    assert about["bank_size"] == 24 and about["threshold"] == 2.0
    assert about["bank_sha256"] == system.retriever.sha256
    none = load_system(folder, documents=0)
    assert none.config["retrieval"] is None


def test_a_bank_that_has_no_use_is_refused(system, folder, tmp_path):
    plain = write_tiny_baselines(tmp_path)
    for bank in (folder.parent / "tokens", tmp_path / "nowhere"):
        with pytest.raises(UserError, match="was trained without retrieval; leave --bank"):
            load_system(plain, bank=bank)
        with pytest.raises(UserError, match="0 documents need no memory bank; leave --bank"):
            load_system(folder, bank=bank, documents=0)


def test_nothing_is_retrieved_without_clip_and_bank(folder, tmp_path):
    import shutil

    home = shutil.copytree(folder.parent, tmp_path / "scenes")
    for part in ("clip", "bank"):
        shutil.rmtree(home / part)
    assert load_system(home / folder.name, documents=0).draw(["a star"], [3]).any()


def test_an_index_finds_the_cache_it_was_made_of(system, folder, tmp_path):
    tokens = folder.parent / "tokens"
    MemoryBank.of_cache(TokenCache(tokens)).save(tmp_path / "index")
    found, direct = (load_system(folder, bank=place) for place in (tmp_path / "index", tokens))
    assert found.documents(PROMPTS) == direct.documents(PROMPTS) == system.documents(PROMPTS)
    about = checkpoint.read_json(tmp_path / "index" / "bank.json")["content"]
    (tmp_path / "index" / "bank.json").write_text(seal(about | {"cache": "/no/such"}))
    with pytest.raises(UserError, match="documents are not at /no/such; give the cache it was"):
        load_system(folder, bank=tmp_path / "index")


def test_another_bank(system, folder):
    other = load_system(folder, bank=folder.parent / "tokens")
    assert other.retriever.sha256 != system.retriever.sha256  # float32, not half precision
    assert other.documents(PROMPTS) == system.documents(PROMPTS)


def test_no_silent_fallback_to_fewer(folder):
    few = load_system(folder, documents=4)
    assert [len(found) for found in few.documents(PROMPTS)] == [4] * 5
    strict = few.with_retrieval(replace(TWO, documents=4, threshold=-0.999))
    with pytest.raises(UserError, match="the bank gives 0 of 4 documents"):
        strict.documents(PROMPTS)


def test_banks_that_do_not_fit(folder, tmp_path):
    import shutil

    home = tmp_path / "scenes"
    shutil.copytree(folder.parent, home)
    clip = {name: value + 0.01 for name, value in random_state(make_clip(SMALL), 0.3).items()}
    _, _, extra = checkpoint.load(home / "clip", "clip")
    checkpoint.save(home / "clip", "clip", SMALL, clip, extra)
    with pytest.raises(UserError, match="the bank was built with CLIP weights"):
        load_system(home / folder.name)
    (home / "bank" / BANK).unlink()
    with pytest.raises(UserError, match="no packed bank at"):
        load_system(home / folder.name)


def test_a_model_without_retrieval_says_so(tmp_path):
    plain = load_system(write_tiny_baselines(tmp_path))
    assert plain.documents(PROMPTS) == [[]] * 5 and plain.config["documents"] == 0
    assert plain.with_retrieval(replace(TWO, documents=0)) is plain
    with pytest.raises(UserError, match="was trained without retrieval"):
        plain.with_retrieval(TWO)
    with pytest.raises(UserError, match=r"retrieval.by must be 'text' to draw"):
        replace(load_system_with_bank(tmp_path), config=replace(TWO, by="both"))


def load_system_with_bank(tmp_path):
    folder = write_tiny_baselines(tmp_path / "bank")
    add_bank(folder)
    return load_system(folder).retriever
