"""plot: the picture as a file, and the page beside it."""

import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest

from parts.image_file import replace, save_image, save_page
from parts.picture import WORDS, draw
from parts.summary import Summary

FIGURE = draw(Summary(), 0, WORDS["en"])


def test_a_picture_is_written_into_a_folder_that_is_made_and_nothing_else(tmp_path):
    path = tmp_path / "sub" / "picture.png"
    for _ in range(2):
        save_image(FIGURE, str(path))
        assert matplotlib.image.imread(path).shape[:2] == (1000, 1600)
        assert [file.name for file in path.parent.iterdir()] == ["picture.png"]


def test_a_picture_is_replaced_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "picture.png"
    path.write_bytes(b"the old one")

    def fail(unfinished, _path):
        assert unfinished.read_bytes().startswith(b"\x89PNG")
        assert path.read_bytes() == b"the old one"
        raise OSError("disk full")

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        save_image(FIGURE, str(path))
    assert path.read_bytes() == b"the old one"
    assert list(tmp_path.iterdir()) == [path]


def test_what_could_not_be_written_whole_is_taken_away(tmp_path):
    with pytest.raises(TypeError):
        replace(tmp_path / "file", "text, not bytes")  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []


def test_the_page_shows_the_picture_and_tells_what_is_in_it(tmp_path):
    page = tmp_path / "logs" / "index.html"
    save_page(str(page.with_name("a picture.png")), "en", "Errors", "3 rows", 10)
    text = page.read_text("utf-8")
    assert '<html lang="en">' in text
    assert "<title>Errors</title>" in text
    assert '<img id="picture" src="a%20picture.png" alt="3 rows">' in text
    assert "1000 * 10)" in text
    assert "$" not in text
    save_page(str(page.with_name("picture.png")), "ru", "Ошибки", 'ещё <4> "строки"', 0.1)
    text = page.read_text("utf-8")
    assert '<html lang="ru">' in text
    assert 'src="picture.png" alt="ещё &lt;4&gt; &quot;строки&quot;"' in text
    assert 'content="1"' in text  # a browser takes 0 as: again and again


def test_the_page_is_never_written_over_one_that_is_not_ours(tmp_path):
    page = tmp_path / "index.html"
    for other in ("<h1>Somebody else's</h1>", "\0" * 10_000, ""):
        page.write_text(other)
        save_page(str(tmp_path / "picture.png"), "en", "Errors", "3 rows", 10)
        assert page.read_text() == other


@pytest.mark.skipif(os.geteuid() != 0, reason="becomes another user")
def test_a_page_that_cannot_be_read_is_not_ours():
    with tempfile.TemporaryDirectory() as folder:
        page = Path(folder) / "index.html"
        page.write_text("mine")
        page.chmod(0o600)
        Path(folder).chmod(0o777)
        os.seteuid(65534)
        try:
            save_page(f"{folder}/p.png", "en", "t", "w", 10)
        finally:
            os.seteuid(0)
        assert page.read_text() == "mine"


def test_a_pipe_in_place_of_the_page_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "index.html")
    save_page(str(tmp_path / "picture.png"), "en", "Errors", "3 rows", 10)
    assert (tmp_path / "index.html").is_fifo()


BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@pytest.mark.skipif(not BROWSER, reason="neither Chromium nor Chrome is installed")
def test_a_browser_shows_the_page_from_the_file_system_and_it_loads_the_picture_again(tmp_path):
    red = np.zeros((1000, 1600, 3))
    red[:, :, 0] = 1
    matplotlib.image.imsave(tmp_path / "a picture.png", red)
    save_page(str(tmp_path / "a picture.png"), "en", "Errors", "3 rows", 1)
    command = [
        str(BROWSER), "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path}/profile",
        "--window-size=1600,1000", "--hide-scrollbars", "--virtual-time-budget=3000",
        (tmp_path / "index.html").as_uri(),
    ]  # fmt: skip
    subprocess.run([*command, f"--screenshot={tmp_path}/seen.png"], check=True, capture_output=True, timeout=60)
    seen = matplotlib.image.imread(tmp_path / "seen.png")[:, :, :3]
    assert (seen == [1, 0, 0]).all(axis=2).mean() > 0.9
    dom = subprocess.check_output([*command, "--dump-dom"], text=True, timeout=60, stderr=subprocess.DEVNULL)
    assert re.search(r'src="(file:.*)?a%20picture\.png\?\d+"', dom)  # put there when it was loaded anew


def test_a_picture_may_have_a_name_that_is_no_text(tmp_path):
    save_page(f"{tmp_path}/p\udcff.png", "en", "title", "words", 1)
    assert 'src="p%FF.png' in (tmp_path / "index.html").read_text()
