"""The picture as a file, and index.html beside it, which shows it in a browser and keeps it fresh."""

import gc
import os
import socket
from html import escape
from io import BytesIO
from pathlib import Path
from string import Template
from urllib.parse import quote

from matplotlib.figure import Figure

PAGE = Template(Path(__file__).with_name("page.html").read_text("utf-8"))


def save_image(figure: Figure, path: str) -> None:
    """Write the picture as PNG. Raises OSError."""
    image = BytesIO()
    # Packed as tightly as by default, it takes half as long again, and is a tenth smaller.
    figure.savefig(image, format="png", pil_kwargs={"compress_level": 1})
    replace(Path(path), image.getvalue())
    # A figure is a web of references to itself; Python would let dozens pile up, 60 MB, before it looks.
    gc.collect()


def save_page(image_path: str, language: str, title: str, in_words: str, interval: float) -> None:
    """Write index.html beside the picture, unless there is one that isn't ours. Raises OSError.

    `in_words` is what the picture tells, `interval` the seconds in which it may change.
    """
    path = Path(image_path).with_name("index.html")
    try:
        if path.exists() and not (path.is_file() and b"<!-- written by plot.py -->" in path.read_bytes()):
            return
    except PermissionError:
        return
    page = PAGE.substitute(
        language=language,
        title=escape(title),
        picture=quote(os.fsencode(os.path.basename(image_path))),
        in_words=escape(in_words),
        seconds=max(1, round(interval)),
    )
    replace(path, page.encode())


def replace(path: Path, content: bytes) -> None:
    """Write a file; whoever opens it meanwhile sees the old one or the new one, whole. Raises OSError."""
    if path.exists() and not path.is_file():
        raise OSError(f"{path} is not a regular file")
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.{socket.gethostname()}-{os.getpid()}")
    try:
        unfinished.write_bytes(content)
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)
