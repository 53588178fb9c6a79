"""plot: draws how the absolute error is distributed, from the CSV that metrics writes.

    CSV_FILE=logs/metric_log.csv IMG_FILE=logs/error_distribution.png python plot.py

Each poll reads only the rows that are new and folds them into counts and sums, so that its time grows with the new
rows and its memory with nothing. Beside the picture, index.html shows it in a browser and keeps it fresh.
"""

import os
import time
from typing import Optional

from parts import service, settings  # first: from here on a request to stop is kept

# isort: split
from parts.follower import Follower
from parts.image_file import save_image, save_page
from parts.picture import WORDS, draw, in_words
from parts.service import log
from parts.summary import Summary, fold

CSV_FILE = settings.text("CSV_FILE", "/app/logs/metric_log.csv")
IMG_FILE = settings.text("IMG_FILE", "/app/logs/error_distribution.png")
PLOT_INTERVAL = settings.number("PLOT_INTERVAL", 10.0, 0.1, 86400)  # seconds between polls
PLOT_LANG = settings.choice("PLOT_LANG", "en", list(WORDS))  # of the picture and its page


def main() -> None:
    service.start()
    settings.differ("IMG_FILE", IMG_FILE, "CSV_FILE", CSV_FILE)
    follower: Optional[Follower] = None
    summary = Summary()  # of the rows read so far
    shown: Optional[Summary] = None  # what the picture shows
    trouble = service.Trouble()
    next_poll = 0.0

    while not service.stop.requested:
        service.beat(not trouble.reason)
        if time.monotonic() < next_poll:
            time.sleep(service.TICK)
            continue
        next_poll = time.monotonic() + PLOT_INTERVAL
        try:
            if not follower or not follower.goes_on():
                follower, summary = Follower(CSV_FILE), Summary()
            if not os.path.exists(IMG_FILE):  # drawn at once, even where a long CSV is to be read first
                show(summary, follower.last_change)
                shown = summary
            for lines in follower.new_lines():
                summary = fold(summary, lines)
                service.beat(not trouble.reason)
                if service.stop.requested or time.monotonic() > next_poll:
                    break  # the rest at the next poll
            news = summary is not shown and (summary.rows or not shown or shown.rows)  # a header alone is none
            if news and not service.stop.requested:
                show(summary, follower.last_change)
                shown = summary
            trouble.tell("")
        except OSError as error:
            trouble.tell(f"no picture: {error}")


def show(summary: Summary, last_change: float) -> None:
    """Draw the picture, write its page, and say so."""
    words = WORDS[PLOT_LANG]
    figure = draw(summary, last_change, words)
    save_image(figure, IMG_FILE)
    save_page(IMG_FILE, PLOT_LANG, words["title"], in_words(figure), PLOT_INTERVAL)
    told = f"{service.counted(summary.rows, 'row')}, MAE {summary.mae:.4f}" if summary.rows else "no rows yet"
    log.info("%s: %s", told, IMG_FILE)


if __name__ == "__main__":
    main()
