"""CLIPs from files: OpenAI's archives give what open_clip's own weights give; what is no CLIP."""

from __future__ import annotations

import warnings
import zipfile
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from open_clip import factory

from cm3leon import seeds
from cm3leon.clip import FACTS, load_clip
from cm3leon.errors import UserError
from cm3leon.evaluation.features.network import load_features
from cm3leon.evaluation.features.towers import load_tower
from cm3leon.evaluation.metrics.clip_score import PREFIX, score_captions
from cm3leon.safe_load import is_program, program_tensors, read_weights

NAME = "ViT-B-32-quickgelu"
SMALL = {
    "embed_dim": 16,
    "quick_gelu": True,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 64, "patch_size": 16},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
}
PICTURES = np.random.default_rng(0).integers(0, 256, (2, 40, 56, 3), np.uint8)


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> tuple[Path, Path]:
    """The same random weights as a list of tensors and as a program with OpenAI's extra numbers."""
    folder = tmp_path_factory.mktemp("towers")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(factory._MODEL_CONFIGS, NAME, SMALL)
        with seeds.torch_default(0, "towers"):
            model = open_clip.create_model(NAME, load_weights=False).eval()
        model.load_state_dict({name: one.half() for name, one in model.state_dict().items()})
        torch.save(model.state_dict(), folder / "tensors.pt")
        model.attn_mask = model._buffers.pop("attn_mask")  # a constant, as in OpenAI's program
        for fact in FACTS:
            if hasattr(model, fact):
                delattr(model, fact)
            model.register_buffer(fact, torch.tensor(32))
        given = {
            "encode_image": torch.zeros(1, 3, 32, 32),
            "encode_text": torch.zeros(1, 77, dtype=torch.int64),
        }
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the tracer's
            program = torch.jit.trace_module(model, given, check_trace=False)
        torch.jit.save(program.half(), str(folder / "program.pt"))  # as published
        yield folder / "tensors.pt", folder / "program.pt"


def test_a_program_is_told_from_a_list(files, tmp_path):
    (tmp_path / "text").write_text("none")
    assert [is_program(path) for path in (*files, tmp_path / "text")] == [False, True, False]


def test_nothing_of_a_program_is_run(files, monkeypatch):
    """The tensors are those of torch's own loader, which compiles the program."""
    held = torch.jit.load(str(files[1]), map_location="cpu").state_dict()
    monkeypatch.setattr(torch.jit, "load", None)
    monkeypatch.setattr(torch, "load", None)
    found = program_tensors(files[1])
    assert found.keys() == held.keys() and set(FACTS) <= found.keys()
    for name, value in held.items():
        assert torch.equal(found[name], value) and found[name].dtype == value.dtype
    assert read_weights(files[1]).keys() == held.keys()


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.int8, torch.bool])
def test_views_and_kinds_of_numbers(tmp_path, dtype):
    class Held(torch.nn.Module):
        def __init__(self):
            super().__init__()
            whole = torch.arange(12).view(3, 4).to(dtype)
            self.register_buffer("whole", whole)
            self.register_buffer("turned", whole.t()[1:])
            self.register_buffer("none", whole[:0])

        def forward(self, x: torch.Tensor):
            return x

    torch.jit.save(torch.jit.script(Held()), str(tmp_path / "held.pt"))
    wanted = Held().state_dict()
    found = program_tensors(tmp_path / "held.pt")
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)


def test_an_archive_that_would_call_something_is_refused(files, tmp_path):
    evil = tmp_path / "evil.pt"
    with zipfile.ZipFile(files[1]) as old, zipfile.ZipFile(evil, "w") as new:
        for name in old.namelist():
            call = b"cos\nsystem\n(S'true'\ntR."
            new.writestr(name, call if name.endswith("data.pkl") else old.read(name))
    with pytest.raises(UserError, match=r"would call (os|posix)\.system; save its weights"):
        read_weights(evil)


def test_both_forms_give_the_same_vectors(files):
    listed, program = (load_tower(NAME, path) for path in files)
    named = load_clip(f"{NAME}:{files[1]}")
    assert named.sha256 == program.sha256 and named.name == program.name
    assert np.array_equal(listed.images(PICTURES), program.images(PICTURES))
    texts = ["a dog", "A photo depicts two kites"]
    assert np.array_equal(listed.texts(texts), program.texts(texts))
    assert listed.sha256 == program.sha256
    features = load_features(f"open_clip:{NAME}:{files[1]}", sha256="any")
    assert np.array_equal(features(PICTURES), program.images(PICTURES))
    assert (features.dim, features.size) == (16, 32)


def test_the_program_tells_the_activation(files, monkeypatch):
    """The tensors fit both networks, and the vectors would be others."""
    plain = "ViT-B-32"
    monkeypatch.setitem(factory._MODEL_CONFIGS, plain, SMALL | {"quick_gelu": False})
    wrong, right = load_clip(f"{plain}:{files[0]}"), load_clip(f"{NAME}:{files[0]}")
    assert np.abs(wrong.images(PICTURES) - right.images(PICTURES)).max() > 1e-5
    with pytest.raises(UserError, match=f"program.pt computes with QuickGELU.*; name {NAME}$"):
        load_clip(f"{plain}:{files[1]}")
    monkeypatch.setattr("cm3leon.clip.program_text", lambda path: "torch.gelu(x)")
    with pytest.raises(UserError, match=f"plain GELU, not {NAME}; name {plain}$"):
        load_clip(f"{NAME}:{files[1]}")


def test_programs_of_other_networks_are_refused(files, tmp_path, monkeypatch):
    monkeypatch.setitem(factory._MODEL_CONFIGS, "ViT-L-14", SMALL | {"embed_dim": 32})
    other = torch.jit.script(torch.nn.Linear(2, 2))
    torch.jit.save(other, str(tmp_path / "other.pt"))
    torn = tmp_path / "torn.pt"
    torn.write_bytes(files[1].read_bytes()[:5000])
    for architecture, path, message in (
        (NAME, tmp_path / "other.pt", f"cannot load CLIP {NAME}:{tmp_path / 'other.pt'}: Error"),
        ("ViT-L-14", files[1], "cannot load CLIP ViT-L-14"),
        ("none", files[1], "no CLIP 'none'"),
        (NAME, torn, "torn.pt"),
    ):
        with pytest.raises(UserError) as error:
            load_tower(architecture, path)
        assert message in str(error.value) and "\n" not in str(error.value)


def transformers_names(weights: dict) -> dict:
    """The tensors of an open_clip CLIP under the names of transformers' CLIPModel."""
    found = {
        "logit_scale": weights["logit_scale"],
        "text_projection.weight": weights["text_projection"].T,
        "visual_projection.weight": weights["visual.proj"].T,
        "text_model.embeddings.token_embedding.weight": weights["token_embedding.weight"],
        "text_model.embeddings.position_embedding.weight": weights["positional_embedding"],
        "vision_model.embeddings.class_embedding": weights["visual.class_embedding"],
        "vision_model.embeddings.position_embedding.weight": weights["visual.positional_embedding"],
        "vision_model.embeddings.patch_embedding.weight": weights["visual.conv1.weight"],
    }
    for kind in ("weight", "bias"):
        found[f"text_model.final_layer_norm.{kind}"] = weights[f"ln_final.{kind}"]
        found[f"vision_model.pre_layrnorm.{kind}"] = weights[f"visual.ln_pre.{kind}"]
        found[f"vision_model.post_layernorm.{kind}"] = weights[f"visual.ln_post.{kind}"]
        for ours, theirs in (("", "text_model"), ("visual.", "vision_model")):
            old, new = f"{ours}transformer.resblocks.0", f"{theirs}.encoder.layers.0"
            parts = weights[f"{old}.attn.in_proj_{kind}"].chunk(3)
            for name, part in zip("qkv", parts, strict=True):
                found[f"{new}.self_attn.{name}_proj.{kind}"] = part
            for one, other in (
                ("attn.out_proj", "self_attn.out_proj"), ("ln_1", "layer_norm1"),
                ("ln_2", "layer_norm2"), ("mlp.c_fc", "mlp.fc1"), ("mlp.c_proj", "mlp.fc2"),
            ):  # fmt: skip
                found[f"{new}.{other}.{kind}"] = weights[f"{old}.{one}.{kind}"]
    return found


def test_the_clip_score_is_that_of_transformers_network(files):
    """Another network, other code for attention and pooling, the same archive: equal to 1e-5."""
    transformers = pytest.importorskip("transformers")
    clip = load_clip(f"{NAME}:{files[1]}")
    text = {"hidden_size": 16, "intermediate_size": 64, "num_hidden_layers": 1,
            "num_attention_heads": 2, "hidden_act": "quick_gelu", "projection_dim": 16,
            "eos_token_id": 49407}  # fmt: skip
    vision = {"hidden_size": 64, "intermediate_size": 256, "num_hidden_layers": 1,
              "num_attention_heads": 1, "hidden_act": "quick_gelu", "image_size": 32,
              "patch_size": 16, "projection_dim": 16}  # fmt: skip
    config = transformers.CLIPConfig(text_config=text, vision_config=vision, projection_dim=16)
    other = transformers.CLIPModel(config).eval()
    weights = {name: one.float() for name, one in program_tensors(files[1]).items()}
    lacking = other.load_state_dict(transformers_names(weights), strict=False)
    assert not lacking.unexpected_keys
    assert all(name.endswith("position_ids") for name in lacking.missing_keys)
    captions = ["a dog", "two red kites over the sea " * 20]
    found = score_captions(clip, PICTURES, captions)
    with torch.inference_mode():
        pixels = torch.stack([clip.pixels(picture) for picture in PICTURES])
        said = other(pixel_values=pixels, input_ids=clip.words([PREFIX + c for c in captions]))
    wanted = (said.image_embeds * said.text_embeds).sum(1)
    assert np.abs(found.cosine_N - wanted.numpy()).max() < 1e-5
    assert np.abs(clip.images(PICTURES) - said.image_embeds.numpy()).max() < 1e-5
