import hashlib
from pathlib import Path

import pytest

from ccapproval import common
from ccapproval.common import InputError


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_records_never_hold_what_is_not_json(value):
    with pytest.raises(ValueError, match="not JSON compliant"):
        common.to_json({"accuracy": [value]})


@pytest.mark.parametrize("text", ['{"a": NaN}', '{"a": -Infinity}', "{", "", b"\xff{}"])
def test_what_is_not_json_is_refused_with_its_source(text):
    with pytest.raises(InputError, match=r"record\.json is not valid JSON"):
        common.parse_json_object(text, "record.json")


def test_floats_survive_a_record():
    values = [0.1, 1 / 3, 5e-324, 7.071473305158338]
    assert common.parse_json_object(common.to_json({"v": values}), "text")["v"] == values


def test_an_interrupted_write_leaves_the_old_content(tmp_path, monkeypatch):
    file = tmp_path / "record.json"
    common.write_atomically(file, "old")
    monkeypatch.setattr(Path, "replace", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        common.write_atomically(file, "new")
    assert file.read_text() == "old"
    assert list(tmp_path.iterdir()) == [file]


def test_written_files_can_be_read_by_other_users(tmp_path):
    common.write_atomically(tmp_path / "deep" / "record.json", b"{}")
    assert (tmp_path / "deep" / "record.json").stat().st_mode & 0o777 == 0o644


def test_digests_are_those_of_sha256sum():
    assert common.digest(b"abc") == "sha256:" + hashlib.sha256(b"abc").hexdigest()
    assert common.sha256_hex(b"") == (
        "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    )


def test_bad_input_ends_a_command_with_one_line(capsys):
    def fail():
        raise InputError("data.csv is missing")

    assert common.command_line(fail) == 1
    assert capsys.readouterr().err == "error: data.csv is missing\n"
    assert common.command_line(lambda: None) == 0
