"""Whole files or none."""

import pytest

from backbones.files import replacing


def test_writes_a_new_file_in_a_new_folder(tmp_path):
    path = tmp_path / "new" / "file.txt"
    with replacing(path) as aside:
        aside.write_text("whole")
        assert not path.exists()
    assert path.read_text() == "whole"
    assert list(path.parent.iterdir()) == [path]


def test_an_error_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "file.txt"
    path.write_text("old")
    with pytest.raises(OSError, match="disk"), replacing(path) as aside:
        aside.write_text("half")
        raise OSError("disk full")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]
