"""An exported folder: transformers loads it, an import gives the same bytes, bad folders one line.

Axes as in cm3leon/model/transformer.py.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file, save_model

from cm3leon import checkpoint
from cm3leon.cli import main as cli
from cm3leon.config import VocabularyConfig, to_dict
from cm3leon.errors import UserError
from cm3leon.interop import hf_folder
from cm3leon.interop.hf_folder import export_hf, import_hf, mapped_model, split, write_tensors
from cm3leon.interop.hf_tokenizer import token_names
from cm3leon.loading import load_system
from cm3leon.sequence.positions import place
from cm3leon.tokenizers.text import TextTokenizer
from tests.retrieval.test_retriever import TWO, add_bank
from tests.test_pipeline import write_tiny_baselines

CAPTIONS = ["a red star", " two  spaces", "", " ", "snow, 雪\n", "naïve <mask> <b>"]


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    """A tiny system; its model's folder."""
    return write_tiny_baselines(tmp_path_factory.mktemp("baselines"))


@pytest.fixture(scope="module")
def exported(model, tmp_path_factory) -> Path:
    return export_hf(model, tmp_path_factory.mktemp("hub") / "tiny")


@pytest.fixture
def broken(exported, tmp_path) -> Path:
    """A copy of the export, to be spoilt, its digests left out."""
    folder = Path(shutil.copytree(exported, tmp_path / "broken"))
    (folder / "SHA256SUMS").unlink()
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def test_the_files_of_an_export(exported, model):
    found = contents(exported)
    assert set(found) == {
        "README.md", "SHA256SUMS", "config.json", "generation_config.json", "model.safetensors",
        "special_tokens_map.json", "text/tokenizer.json", "text/tokenizer.json.sha256",
        "tokenizer.json", "tokenizer_config.json", "vq/config.json", "vq/model.safetensors",
    }  # fmt: skip
    for part in ("text", "vq"):
        beside = contents(model.parent / part)
        assert {name: beside[name] for name in beside} == contents(exported / part)
    card = found["README.md"].decode()
    assert card.startswith("---\nlibrary_name: transformers") and "`<image:0>`" in card
    assert not list(exported.parent.glob(".*"))
    if shutil.which("sha256sum"):
        words = ["sha256sum", "-c", "--strict", "SHA256SUMS"]
        said = subprocess.run(words, cwd=exported, capture_output=True, text=True, check=True)
        assert said.stdout.count(": OK\n") == len(found) - 1


def test_a_lost_digest_of_the_tokenizer_is_written_again(exported, model, tmp_path):
    home = Path(shutil.copytree(model.parent, tmp_path / model.parent.name))
    (home / "text" / "tokenizer.json.sha256").unlink()
    assert contents(export_hf(home / model.name, tmp_path / "tiny")) == contents(exported)


def test_transformers_loads_it(exported, model):
    transformers = pytest.importorskip("transformers")
    opt = transformers.AutoModelForCausalLM.from_pretrained(exported).eval()
    assert type(opt).__name__ == "OPTForCausalLM" and opt.dtype == torch.float32
    system = load_system(model)
    vocabulary, ids = system.vocabulary, torch.arange(95).repeat(2, 1) * 7 % system.vocabulary.eom
    with torch.no_grad():
        torch.testing.assert_close(opt(ids).logits, system.model(ids), rtol=1e-4, atol=1e-4)
    generation = opt.generation_config
    ends = (generation.bos_token_id, generation.eos_token_id, generation.pad_token_id)
    assert ends == (vocabulary.eos, vocabulary.eos, vocabulary.pad)
    assert generation.do_sample and generation.temperature == system.decode.temperature

    tokenizer = transformers.AutoTokenizer.from_pretrained(exported)
    for caption in CAPTIONS:
        own = system.text.encode(caption)
        assert tokenizer(caption)["input_ids"] == own
        assert tokenizer.decode(own) == caption
        assert (
            tokenizer(f"<eos>{caption}<break>")["input_ids"] == system.prompt(caption, []).tolist()
        )
    names = token_names(vocabulary)
    assert tokenizer.convert_tokens_to_ids(names) == list(
        range(system.text.size, vocabulary.eom + 1)
    )
    both = tokenizer("<eos>a red star<break><image:5>")["input_ids"]
    assert both[-1] == vocabulary.image(5)
    assert tokenizer.decode(both, skip_special_tokens=True) == "a red star"


def test_an_import_gives_the_same_bytes(exported, model, tmp_path):
    out = import_hf(exported, tmp_path / "models" / "again")
    assert contents(out) == {
        name: data
        for name, data in contents(model).items()
        if name in ("config.json", "model.safetensors")
    } | {
        f"{part}/{name}": data
        for part in ("text", "vq")
        for name, data in contents(model.parent / part).items()
    }
    one, other = load_system(model), load_system(out)
    assert one.weights_sha256 == other.weights_sha256
    drawn = [system.draw(["a star"], [3]) for system in (one, other)]
    assert np.array_equal(*drawn)
    assert {path.name for path in (tmp_path / "models").iterdir()} == {"again"}


def trained(model: Path, folder: Path) -> Path:
    """The model as `cm3leon train` leaves it: its tokenizers in its own folder."""
    shutil.copytree(model, folder)
    for part in ("text", "vq"):
        shutil.copytree(model.parent / part, folder / part)
    return folder


def test_a_model_of_cm3leon_train(model, exported, tmp_path):
    own = trained(model, tmp_path / "models" / "scenes-s")
    assert contents(export_hf(own, tmp_path / "hub")) == contents(exported)
    again = import_hf(tmp_path / "hub", tmp_path / "again")
    assert contents(again) == contents(own)
    load_system(again)


def test_a_model_with_documents_takes_clip_and_bank_along(tmp_path, capsys):
    model = write_tiny_baselines(tmp_path / "baselines")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        add_bank(model)
    hub, again = export_hf(model, tmp_path / "hub"), tmp_path / "again"
    import_hf(hub, again)
    drawn = [load_system(place).draw(["a star"], [3]) for place in (model, again)]
    assert np.array_equal(*drawn) and "in `bank/` and `clip/`" in (hub / "README.md").read_text()
    shutil.rmtree(hub / "clip")
    (hub / "SHA256SUMS").unlink()
    import_hf(hub, tmp_path / "without")
    assert "ask for --documents 0" in capsys.readouterr().err
    assert load_system(tmp_path / "without", documents=0).draw(["a star"], [3]).any()
    (model.parent / "bank" / "bank.npz").write_bytes(b"torn")
    with pytest.raises(UserError, match="no packed bank or damaged"):
        export_hf(model, tmp_path / "new")


def test_a_bank_named_by_its_path_stays_and_this_is_said(model, tmp_path, capsys):
    own = trained(model, tmp_path / "models" / "own")
    values = json.loads((own / "config.json").read_text())
    values["extra"] |= {
        "retrieval": to_dict(TWO), "clip": {"name": "clips/mine", "sha256": ""},
        "bank": {"cache": "caches/all", "index": None},
    }  # fmt: skip
    checkpoint.write_about(own / "config.json", values)
    export_hf(own, tmp_path / "hub")
    assert "CLIP (clips/mine) and memory bank (caches/all) stay" in capsys.readouterr().err
    import_hf(tmp_path / "hub", tmp_path / "again")
    assert load_system(tmp_path / "again", documents=0).draw(["a star"], [3]).any()
    with pytest.raises(UserError, match="caches/all, which is not there; name another with --bank"):
        load_system(tmp_path / "again")


def test_every_file_of_an_export_is_checked(exported, tmp_path):
    for name in filter(hf_folder.is_read, contents(exported)):
        folder = Path(shutil.copytree(exported, tmp_path / "flipped", dirs_exist_ok=True))
        data = bytearray((folder / name).read_bytes())
        data[len(data) // 2] ^= 1
        (folder / name).write_bytes(data)
        with pytest.raises(UserError, match="is missing or not what SHA256SUMS names; copy it"):
            import_hf(folder, tmp_path / "new")
    (folder / "vq" / "config.json").unlink()
    with pytest.raises(UserError, match=r"vq/config.json is missing or not what SHA256SUMS"):
        import_hf(folder, tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_what_transformers_writes_anew_is_read(exported, model, tmp_path):
    """Saved into a copy of the export: there is no digest of it, of the rest there is."""
    transformers = pytest.importorskip("transformers")
    folder = Path(shutil.copytree(exported, tmp_path / "trained"))
    opt = transformers.AutoModelForCausalLM.from_pretrained(folder)
    with torch.no_grad():
        opt.model.decoder.layers[0].fc1.weight += 1
    opt.save_pretrained(folder)
    before, after = mapped_model(model)[0], mapped_model(import_hf(folder, tmp_path / "new"))[0]
    up = [one.blocks[0].up.weight.float() for one in (before, after)]
    torch.testing.assert_close(up[1], up[0] + 1)
    path = folder / "text" / "tokenizer.json"
    path.write_bytes(path.read_bytes() + b"\n")
    with pytest.raises(UserError, match=r"text/tokenizer.json is missing or not what SHA256SUMS"):
        import_hf(folder, tmp_path / "other")


def test_save_model_and_its_aliases(broken, exported, tmp_path):
    """safetensors.torch.save_model keeps one name of tied weights, the other in the metadata."""
    transformers = pytest.importorskip("transformers")
    opt = transformers.AutoModelForCausalLM.from_pretrained(exported)
    save_model(opt, str(broken / "model.safetensors"))
    assert "lm_head.weight" in load_file(broken / "model.safetensors")
    assert contents(import_hf(broken, tmp_path / "a")) == contents(
        import_hf(exported, tmp_path / "b")
    )


@pytest.mark.parametrize("kind", ["anchored", "grid"])
def test_places_go_there_and_back(kind, tmp_path):
    """What is drawn from the import is what was drawn; transformers is told the places."""
    transformers = pytest.importorskip("transformers")
    places = dict(positions=kind, position_text=40, position_grid=4, position_pairs=1)
    model = write_tiny_baselines(tmp_path / "baselines", **places)
    exported, own = export_hf(model, tmp_path / "hub"), load_system(model)
    card = (exported / "README.md").read_text()
    assert "code k of\nits picture at 40 + 56 p + k" in card
    assert ('gives a model of positions "anchored"' in card) == (kind == "grid")
    out = import_hf(exported, tmp_path / "models" / "again")
    again = load_system(out)
    assert again.model.config == replace(own.model.config, positions="anchored")
    if kind == "anchored":
        names = ("config.json", "model.safetensors")
        assert all(contents(out)[name] == contents(model)[name] for name in names)
    assert np.array_equal(again.draw(["a star"], [3]), own.draw(["a star"], [3]))
    opt = transformers.AutoModelForCausalLM.from_pretrained(exported).eval()
    codes = own.draw_codes(["a star"], [3]).numpy()[0] + own.vocabulary.image_start
    ids = np.append(own.prompt("a star", []), codes)
    at = torch.tensor(place(ids, own.vocabulary, own.model.config))[None]
    ids = torch.tensor(ids)[None]
    with torch.no_grad():
        wanted = own.model(ids, at)
        found = opt(ids, position_ids=at).logits
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)
        assert not torch.allclose(opt(ids).logits, wanted, atol=0.1)


def test_pictures_of_another_grid_have_no_places(tmp_path):
    places = dict(positions="grid", position_text=40, position_grid=8)
    model = write_tiny_baselines(tmp_path, **places)
    with pytest.raises(UserError, match=r"8 x 8 codes, .*vq makes 4 x 4; put its own") as caught:
        load_system(model)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("tied", [True, False])
def test_shards(model, tmp_path, monkeypatch, tied):
    if not tied:
        model = untied(model, tmp_path / "scenes")
    whole = export_hf(model, tmp_path / "whole")
    export_hf(model, tmp_path / "shards", shard_bytes=20_000)
    index = json.loads((tmp_path / "shards" / "model.safetensors.index.json").read_text())
    files = sorted((tmp_path / "shards").glob("model-*.safetensors"))
    assert len(files) > 2 and files[0].name == f"model-00001-of-{len(files):05d}.safetensors"
    assert set(index["weight_map"].values()) == {path.name for path in files}
    tensors = load_file(whole / "model.safetensors")
    assert ("lm_head.weight" in tensors) is not tied
    assert index["metadata"]["total_size"] == sum(value.nbytes for value in tensors.values())
    one, other = (
        import_hf(tmp_path / name, tmp_path / name[0] / "m") for name in ("whole", "shards")
    )
    assert contents(one) == contents(other)
    transformers = pytest.importorskip("transformers")
    opt = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "shards")
    ids = torch.arange(40)[None]
    with torch.no_grad():
        wanted = load_system(model).model(ids)
        torch.testing.assert_close(opt(ids).logits, wanted, rtol=1e-4, atol=1e-4)


def untied(model: Path, home: Path) -> Path:
    """The tiny system with a head of its own."""
    from dataclasses import replace

    from cm3leon import checkpoint
    from cm3leon.config import ModelConfig, from_dict

    shutil.copytree(model.parent, home)
    values, tensors, extra = checkpoint.load(model, "transformer")
    tensors["head.weight"] = tensors["token_embedding.weight"].flip(0)
    config = replace(from_dict(ModelConfig, values), tied=False)
    checkpoint.save(home / "untied", "transformer", config, tensors, extra)
    return home / "untied"


def test_split_keeps_order_and_size():
    tensors = {str(k): torch.zeros(k, dtype=torch.uint8) for k in (3, 4, 9, 1, 1, 5)}
    assert [list(part) for part in split(tensors, 7)] == [["3", "4"], ["9"], ["1", "5"]]
    with pytest.raises(UserError, match="at least 1 byte, got 0"):
        split(tensors, 0)


def test_weights_are_mapped_not_read(model):
    found, _ = mapped_model(model)
    stored = load_file(model / "model.safetensors")
    assert all(torch.equal(value, stored[name]) for name, value in found.state_dict().items())
    maps = Path("/proc/self/maps")
    if not maps.exists():
        pytest.skip("this system does not tell what is mapped")
    ranges = [
        [int(bound, 16) for bound in line.split()[0].split("-")]
        for line in maps.read_text().splitlines()
        if line.endswith(str(model / "model.safetensors"))
    ]
    for name, weight in found.named_parameters():
        assert any(low <= weight.data_ptr() < high for low, high in ranges), name


def test_a_plain_opt_of_our_kind(model, tmp_path, capsys):
    transformers = pytest.importorskip("transformers")
    home = tmp_path / "tokenizers"
    shutil.copytree(model.parent / "vq", home / "vq")
    text = TextTokenizer.train(["a red star"], 300)
    text.save(home / "text")
    size = text.size + 32 + 2 + 4
    config = transformers.OPTConfig(
        vocab_size=size, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, ffn_dim=64,
        max_position_embeddings=80, word_embed_proj_dim=16, enable_bias=False,
        layer_norm_elementwise_affine=False,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(0)
        opt = transformers.OPTForCausalLM(config).eval()
    opt.save_pretrained(tmp_path / "plain")
    ids = ["--text-size", str(text.size), "--image-size", "32", "--sentinels", "2"]
    folders = [str(tmp_path / name) for name in ("plain", "ours")]
    assert cli.main(["import", *folders, *ids]) == 2
    assert "cannot draw; name their folder with --tokenizers" in capsys.readouterr().err
    assert cli.main(["import", *folders, *ids, "--tokenizers", str(home)]) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'ours'}\n"
    assert load_system(tmp_path / "ours").draw(["a star"], [0]).any()
    ours, _ = mapped_model(tmp_path / "ours")
    wanted = VocabularyConfig(text.size, 32, 2, size)
    assert ours.config.name == "ours" and ours.config.vocabulary == wanted
    row = torch.arange(40)[None] % size
    row[row == 1] = 2  # OPT's default pad id
    with torch.no_grad():
        torch.testing.assert_close(ours(row), opt(row).logits, rtol=1e-4, atol=1e-4)
    for words, message in (
        ([], "give --text-size, --image-size and --sentinels"),
        (ids[:2], "--text-size, --image-size and --sentinels together, got text_size"),
        ([*ids[:4], "--sentinels", "20"], f"vocab_size is {size}, the id space has {2 * size}"),
    ):
        assert cli.main(["import", folders[0], str(tmp_path / "new"), *words]) == 2
        assert message in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


def spoil_config(folder: Path, **changes) -> None:
    values = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(values | changes))


def add_tensor(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    tensors["model.decoder.layers.0.fc1.bias"] = torch.zeros(128)
    save_file(tensors, folder / "model.safetensors")


def only_pickle(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def leave_the_folder(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    index = {"weight_map": {"model.decoder.embed_tokens.weight": "../secret.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def add_nan(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    tensors["model.decoder.layers.1.fc1.weight"][3, 4] = torch.nan
    save_file(tensors, folder / "model.safetensors")


def other_tokenizer(folder: Path) -> None:
    path = folder / "text" / "tokenizer.json"
    path.write_bytes(path.read_bytes() + b"\n")
    path.with_name("tokenizer.json.sha256").unlink()


def cut(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-7])


BAD_FOLDERS = {
    "enable_bias must be False, got True": lambda folder: spoil_config(folder, enable_bias=True),
    "config.json is no JSON": lambda folder: (folder / "config.json").write_text("{"),
    "'model.decoder.layers.0.fc1.bias', which": add_tensor,
    "pytorch_model.bin is pickled": only_pickle,
    "no weight_map of file names": leave_the_folder,
    "cannot read": cut,
    "blocks.1.up.weight holds NaN or infinity": add_nan,
    "was trained with 300 text tokens of": other_tokenizer,
    "vq/config.json": lambda folder: (folder / "vq" / "config.json").unlink(),
    "has digest": lambda folder: cut(folder / "vq"),
    "text/tokenizer.json": lambda folder: (folder / "text" / "tokenizer.json").unlink(),
    "cannot read tokenizer": lambda folder: shutil.rmtree(folder / "text"),
    "no model.safetensors there": lambda folder: (folder / "model.safetensors").unlink(),
}


@pytest.mark.parametrize("message", BAD_FOLDERS)
def test_bad_folders_get_one_line(broken, tmp_path, capsys, message):
    BAD_FOLDERS[message](broken)
    assert cli.main(["import", str(broken), str(tmp_path / "m" / "new")]) == 2
    said = capsys.readouterr().err
    assert message in said and said.count("\n") == 1
    assert not (tmp_path / "m").exists()


def test_an_export_has_the_same_bytes_each_time(exported, tmp_path):
    """The library's notes come in another order each time, unless they are put into one."""
    right = (exported / "model.safetensors").read_bytes()
    assert b'{"cm3leon":"export","format":"pt"}' in right[:90]
    tensors = {"b": torch.zeros(2), "a": torch.ones(3)}
    for number in range(12):
        write_tensors(tmp_path / f"{number}.safetensors", tensors)
    assert len({path.read_bytes() for path in tmp_path.iterdir()}) == 1
    with safe_open(tmp_path / "0.safetensors", framework="pt") as file:
        assert torch.equal(file.get_tensor("a"), tensors["a"])


def test_what_is_there_is_never_overwritten(exported, model, tmp_path, capsys):
    kept = contents(exported)
    for words in (["export", str(model), str(exported)], ["import", str(exported), str(exported)]):
        assert cli.main(words) == 2
        assert capsys.readouterr().err == f"error: {exported} exists; name a new folder\n"
    assert contents(exported) == kept


def test_broken_models_are_not_exported(model, tmp_path, capsys):
    home = Path(shutil.copytree(model.parent, tmp_path / "scenes"))
    other = home / "text" / "tokenizer.json"
    other.write_bytes(other.read_bytes().replace(b"\n", b"\n ", 1) + b"\n")
    (home / "text" / "tokenizer.json.sha256").unlink()
    assert cli.main(["export", str(home / "scenes-s"), str(tmp_path / "out")]) == 2
    assert "was trained with" in capsys.readouterr().err
    cut(home / "scenes-s")
    assert cli.main(["export", str(home / "scenes-s"), str(tmp_path / "out")]) == 2
    assert "has digest" in capsys.readouterr().err
    assert cli.main(["export", str(home / "vq"), str(tmp_path / "out")]) == 2
    assert "error:" in capsys.readouterr().err
    assert {path.name for path in tmp_path.iterdir()} == {"scenes"}


def test_a_full_disk_leaves_nothing(model, exported, tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(hf_folder, "write_tensors", full)
    for call in (lambda out: export_hf(model, out), lambda out: import_hf(exported, out)):
        with pytest.raises(UserError, match="No space left on device; free space"):
            call(tmp_path / "new")
    assert not list(tmp_path.iterdir())
