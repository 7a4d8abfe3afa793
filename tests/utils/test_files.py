"""Whole files or none."""

import pytest

from backbones.utils.files import InputError, WriteError, check_writable, find_images, replacing


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


def test_an_unwritable_path_is_named(tmp_path):
    (tmp_path / "file").write_text("no folder")
    for path in (tmp_path / "file" / "out.txt", tmp_path / "file" / "deeper" / "out.txt", tmp_path):
        with pytest.raises(WriteError, match=rf"^Cannot write {path}: .+\.$"), replacing(path) as aside:
            aside.write_text("x")
        with pytest.raises(WriteError, match=rf"^Cannot write {path}"):
            check_writable(path)
    check_writable(tmp_path / "new" / "deeper" / "out.txt")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_what_is_no_plain_file_is_written_to_and_stays_what_it_is(tmp_path):
    target, link, full = tmp_path / "target", tmp_path / "link", tmp_path / "full"
    target.write_text("old")
    link.symlink_to(target)
    full.symlink_to("/dev/full")
    with replacing(link) as path:
        path.write_text("new")
    assert link.is_symlink() and target.read_text() == "new"
    with pytest.raises(WriteError, match="No space left on device"), replacing(full) as path:
        path.write_text("lost")
    assert full.is_symlink()


@pytest.fixture
def photos(tmp_path):
    for name in ("b.png", "deep/er/a.JPG", "c.webp", "notes.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "empty").mkdir()
    return tmp_path


def test_files_folders_and_globs_are_found_once_and_in_order(photos):
    assert _names(find_images([str(photos)])) == ["b.png", "c.webp", "a.JPG"]
    assert _names(find_images([str(photos / "c.webp"), str(photos)])) == ["c.webp", "b.png", "a.JPG"]
    assert _names(find_images([str(photos / "*.png")])) == ["b.png"]
    assert _names(find_images([str(photos / "**" / "*")])) == ["b.png", "c.webp", "a.JPG"]
    assert _names(find_images([str(photos / "de*")])) == ["a.JPG"]
    assert _names(find_images([str(photos / "notes.txt")])) == ["notes.txt"]  # named, so tried


@pytest.mark.parametrize(
    ("text", "message"),
    [("*.tiff", "No image matches"), ("absent.jpg", "does not exist"), ("empty", "holds no images")],
)
def test_inputs_that_match_nothing(photos, text, message):
    with pytest.raises(InputError, match=message):
        find_images([str(photos / text)])


def _names(paths):
    return [path.name for path in paths]
