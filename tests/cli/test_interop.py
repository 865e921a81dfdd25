"""`cm3leon export` and `import` as they are typed; what they do is tested in test_hf_folder.py."""

from __future__ import annotations

import json

import pytest

from cm3leon.cli import main as cli
from cm3leon.cli.interop import Export, Import
from cm3leon.config import VocabularyConfig
from cm3leon.errors import UserError


def test_the_words_of_the_command_line(tmp_path):
    command = cli.parse(cli.COMMANDS, ["export", "--format", "hf", "scenes-s", "out"], "cm3leon")
    assert isinstance(command, Export) and (command.system, str(command.out)) == ("scenes-s", "out")
    command = cli.parse(cli.COMMANDS, ["import", "in", "out", "--text-size", "9"], "cm3leon")
    assert isinstance(command, Import) and command.text_size == 9
    with pytest.raises(UserError, match="gguf"):
        cli.parse(cli.COMMANDS, ["export", "--format", "gguf", "scenes-s", "out"], "cm3leon")


def test_the_id_space_of_a_plain_opt(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"vocab_size": 50}))
    assert Import(tmp_path, tmp_path).vocabulary() is None
    told = Import(tmp_path, tmp_path, text_size=30, image_size=8, sentinels=2).vocabulary()
    assert told == VocabularyConfig(30, 8, 2, multiple=50)  # filled up to the checkpoint's ids
    with pytest.raises(UserError, match="together, got text_size, sentinels"):
        Import(tmp_path, tmp_path, text_size=30, sentinels=2).vocabulary()
    with pytest.raises(UserError, match="image_size must be at least 1, got 0"):
        Import(tmp_path, tmp_path, text_size=30, image_size=0, sentinels=2).vocabulary()
    with pytest.raises(UserError, match="cannot read"):
        Import(tmp_path / "x", tmp_path, text_size=30, image_size=2, sentinels=2).vocabulary()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["export", "scenes-z", "out"], "unknown model 'scenes-z'"),
        (["export", "nowhere/x", "out"], "no model at nowhere/x"),
        (["import", "nowhere", "out"], "cannot read nowhere/config.json"),
        (["export", "scenes-s", "."], "exists; name a new folder"),
    ],
)
def test_mistakes_get_one_line(tmp_path, monkeypatch, capsys, words, message):
    monkeypatch.chdir(tmp_path)
    assert cli.main(words) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ") and message in said and said.count("\n") == 1
    assert not list(tmp_path.iterdir())
