"""nox -s verify_fid: comparisons that can fail, files that are missing, made files, the record."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import verify_fid
from benchmarks.harness.core import validate
from benchmarks.verify import inception_speed, published, random_weights
from benchmarks.verify.checks import Check, array_check, refusal_check, value_check
from benchmarks.verify.inception_speed import EXTRACTION, Speed, ours, shares, speeds
from benchmarks.verify.published import cifar_checks, drawn, read_cifar
from cm3leon.errors import UserError
from cm3leon.evaluation.features.inception import DIM
from cm3leon.evaluation.features.network import Features
from cm3leon.evaluation.features.statistics import Statistics, export_statistics
from cm3leon.evaluation.metrics.precision_recall import precision_recall
from cm3leon.evaluation.statistics.frechet import frechet_from_features
from cm3leon.interop.known_weights import KNOWN
from tests.interop.test_known_weights import home  # noqa: F401  (a fixture: an empty home)


@given(st.floats(-100, 100), st.floats(0, 10), st.floats(-20, 20))
def test_a_value_fails_exactly_beyond_its_limit(wanted, limit, off):
    check = value_check("x", wanted, wanted + off, limit)
    assert check.made and check.failed == (abs((wanted + off) - wanted) > limit)
    assert check.row()[-2] == ("FAILED" if check.failed else "fine")


def test_arrays_are_compared_against_their_largest_value():
    one = np.array([[100.0, 1.0]])
    assert array_check("x", one, one + 1e-4, 2e-6).verdict == "fine"
    assert array_check("x", one, one + 1e-4, 2e-6, relative=False).failed
    assert array_check("x", one, one * np.nan, 1.0).failed  # not a number is never fine
    with pytest.raises(UserError, match="shapes differ"):
        array_check("x", one, one[:, :1], 1.0)


def test_a_check_that_was_not_made_is_neither():
    check = Check("x", missing="a file", way="get it")
    assert not check.made and not check.failed
    assert check.row() == ("x", "-", "-", "-", "-", "not checked", "a file")


def test_a_refusal_is_one_line():
    def raising(error):
        def load():
            raise error

        return load

    assert refusal_check("x", raising(UserError("one line"))).verdict == "fine"
    assert refusal_check("x", raising(UserError("two\nlines"))).failed
    assert refusal_check("x", raising(KeyError("a traceback"))).failed
    assert refusal_check("x", lambda: "loaded").failed


def test_every_form_of_inception_is_the_same_network():
    found, lacking = speeds((1,), 1, side=80, pictures=1)
    names = ["plain", "channels-last", "folded", "folded channels-last", "fast"]
    assert [one.name for one in found][:5] == names and found[-1].name == EXTRACTION
    assert {ours(), "fast"} <= {one.name for one in found} and found[0].error == 0
    for one in found:
        assert one.wall > 0 and one.cpu > 0
        assert one.exact == (one.error <= 1e-5) == (one.name != "bfloat16")
    rough = [one.error for one in found if one.name == "bfloat16"]
    assert all(1e-4 < error < 3e-2 for error in rough) and len(rough) + len(lacking) == 1


def test_compiled_is_timed_or_its_lack_is_told(monkeypatch):
    pytest.importorskip("cleanfid")
    monkeypatch.setattr(inception_speed, "form_cells", lambda *_: iter(()))
    monkeypatch.setattr(torch, "compile", lambda network, dynamic: network)
    (one,), _ = speeds((1,), 1, side=80, compiled=True, pictures=0)
    assert one.name == "compiled" and one.exact and one.wall > 0

    def without_compiler(network, dynamic):
        raise RuntimeError("no C++ compiler\nand more")

    monkeypatch.setattr(torch, "compile", without_compiler)
    found, lacking = speeds((1,), 1, side=80, compiled=True, pictures=0)
    assert not found and lacking[-1] == "compiled is not timed: RuntimeError: no C++ compiler"


def test_shares_are_of_the_fastest_exact_form():
    found = [
        Speed("plain", 1, 4.0, 2.0, 0.0),
        Speed("packed", 1, 7.0, 6.0, 1e-7),
        Speed("packed", 8, 9.0, 5.0, 1e-7),
        Speed("compiled", 8, 10.0, 4.0, 1e-7),
        Speed("bfloat16", 8, 90.0, 40.0, 1e-2),
        Speed(EXTRACTION, 32, 8.5, 3.0, 1e-7),
    ]
    said = shares(found, "packed")
    assert said == {
        "ours_to_best_wall": 0.9,
        "ours_to_best_cpu": 1.0,
        "extraction_to_best_wall": 0.85,
        "extraction_to_best_cpu": 0.5,
    }
    assert "extraction_to_best_wall" not in shares(found[:-1], "packed")


def test_the_table_of_speeds(monkeypatch, capsys):
    found = [Speed("plain", 8, 4.0, 2.0, 0.0), Speed(ours(), 8, 8.0, 4.0, 1e-7)]
    found.append(Speed(EXTRACTION, 32, 7.0, 3.0, 1e-7))
    monkeypatch.setattr(
        inception_speed, "speeds", lambda *_, **__: (found, ["a form is not timed"])
    )
    extra = verify_fid.timings(verify_fid.Options(speed=True))
    out = capsys.readouterr().out
    assert f"{ours()} reaches 1.00 of the fastest" in out and "a form is not timed" in out
    assert "from files to features on disk 0.88" in out and "2.00x" in out
    assert extra["plain_batch_8_pictures_per_s"] == 4 and extra["extraction_to_best_wall"] == 0.875


def test_nothing_here_is_all_named(home):  # noqa: F811
    found = list(published.published_checks(None, None, None))
    assert not any(check.made for check in found)
    assert all(check.missing and check.way for check in found)
    text = "\n".join(f"{check.missing}: {check.way}" for check in found)
    assert all(f"weights {key}: " in text for key in KNOWN)
    assert "--cifar10 FOLDER" in text and "--statistics A.npz B.npz" in text


def test_a_file_of_another_digest_fails(home, monkeypatch):  # noqa: F811
    for key in ("inception", "clip-openai", "dinov2"):
        (home / f"{key}.pt").write_bytes(b"weights")
        monkeypatch.setenv(KNOWN[key].variable, str(home / f"{key}.pt"))
    found = {check.name: check for check in published.published_checks(None, None, None)}
    assert found["digest of weights inception"].failed
    assert found["digest of weights clip-openai"].failed
    assert found["digest of weights dinov2"].missing == "a digest"
    agree = found["inception-clean against inception-jit"]
    assert not agree.made and agree.missing == "weights inception-jit"


def write_cifar(root, count: int) -> np.ndarray:
    """The binary form of CIFAR-10 with noise in it; the pictures of the training files."""
    pictures = np.random.default_rng(0).integers(0, 256, (6, count, 32, 32, 3), np.uint8)
    names = [f"data_batch_{k}.bin" for k in range(1, 6)] + ["test_batch.bin"]
    for name, some in zip(names, pictures, strict=True):
        planes = some.transpose(0, 3, 1, 2).reshape(count, -1)
        (root / name).write_bytes(np.hstack([planes[:, :1] % 10, planes]).tobytes())
    return pictures[:5].reshape(-1, 32, 32, 3)


def test_cifar_is_read_and_drawn_as_published(tmp_path, monkeypatch):
    train = write_cifar(tmp_path, 12)
    assert (read_cifar(tmp_path, "train") == train).all()
    assert read_cifar(tmp_path, "test").shape == (12, 32, 32, 3)
    with pytest.raises(UserError, match="at least 5000 pictures, got 60"):
        drawn(train)
    monkeypatch.setattr(published, "DRAWN", 10)
    wanted = train[np.random.RandomState(2020).choice(60, 10, replace=False)]
    assert (drawn(train) == wanted).all()


def test_cifar_numbers_are_the_functions_on_its_features(tmp_path, monkeypatch):
    write_cifar(tmp_path, 12)
    monkeypatch.setattr(published, "DRAWN", 12)
    network = Features("stub", "0" * 64, 3, 32, lambda x: x.mean((1, 2)), True, logits=np.asarray)
    fid, score, low, high = cifar_checks(tmp_path, lambda: network)
    sides = [network(drawn(read_cifar(tmp_path, part))) for part in ("train", "test")]
    assert fid.found == pytest.approx(frechet_from_features(*sides)) and fid.wanted == 10.3233274
    assert [low.found, high.found] == sorted(precision_recall(*sides))
    assert score.found >= 1 and all(check.failed for check in (fid, score))  # noise is not CIFAR
    (tmp_path / "test_batch.bin").write_bytes(b"torn")
    with pytest.raises(UserError, match=r"test_batch.bin is truncated: 4 bytes"):
        read_cifar(tmp_path, "test")
    (tmp_path / "test_batch.bin").unlink()
    with pytest.raises(UserError, match=r"has no test_batch.bin; unpack https"):
        read_cifar(tmp_path, "test")


def moments_file(path, shift: float):
    """Moments of a diagonal Gaussian: the FID of two is the squared distance of their means."""
    return export_statistics(path, Statistics(np.full(DIM, shift), np.eye(DIM), {}))


@pytest.fixture
def run(tmp_path, monkeypatch, capsys, home):  # noqa: F811
    """Run the command with one made check; returns (exit code, stdout, stderr)."""
    (home / "tmp").mkdir()
    made = Check("made", 0.0, 1.0)
    monkeypatch.setattr(random_weights, "made_checks", lambda folder: iter([made]))

    def call(*arguments):
        code = verify_fid.main([*map(str, arguments), "--results", str(tmp_path / "results")])
        return code, *capsys.readouterr()

    return call


def test_a_record_and_the_table(run, tmp_path):
    one, other = moments_file(tmp_path / "a.npz", 0.0), moments_file(tmp_path / "b.npz", 0.1)
    code, out, err = run("--statistics", one, other, "--expected", 0.01 * DIM)
    assert code == 0 and not err
    assert "2 checks made, 0 failed, 12 not made" in out and "weights inception: curl" in out
    (record,) = [json.loads(path.read_text()) for path in tmp_path.glob("results/**/*.json")]
    validate(record)
    assert (record["value"], record["n"], record["bench"]) == (0, 2, "verify_fid")
    assert record["protocol"] == {"checks": ["made", "FID of two files of moments"]}
    code, out, err = run("--statistics", one, other, "--expected", 3)
    assert code == 2 and err == "error: failed: FID of two files of moments\n" and "FAILED" in out


def test_mistakes_are_one_line(run, tmp_path):
    for arguments, message in (
        (["--repeats", 4], "repeats >= 5"),
        (["--expected", 3], "belong together"),
        (["--statistics", "a.npz", "b.npz", "--expected", 3], "no file a.npz"),
        (["--cifar10", "nowhere"], "no folder nowhere"),
        (["--nonsense"], "nonsense"),
    ):
        code, _, err = run(*arguments)
        assert code == 2 and err.count("\n") == 1 and message in err
    assert not list(tmp_path.glob("results/**/*.json"))


@pytest.mark.full
def test_made_files_pass(tmp_path):
    """The whole list of checks that need nothing from elsewhere: half a minute."""
    found = list(random_weights.made_checks(tmp_path))
    assert len(found) == 18 and not [
        check.name for check in found if check.failed or not check.made
    ]


def test_a_wrong_resize_is_found(monkeypatch):
    from cm3leon.evaluation.features import resize

    assert not any(check.failed for check in random_weights.resize_checks())
    other = dict(resize.RESIZES, clean=resize.tensorflow, bilinear=resize.tensorflow)
    monkeypatch.setattr(resize, "RESIZES", other)
    assert all(check.failed for check in random_weights.resize_checks() if check.made)
