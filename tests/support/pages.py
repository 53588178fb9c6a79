"""What stands between fences in docs/, so that a test types it as a reader does."""

import re
from typing import Dict, List, Tuple

from support.paths import ROOT


def blocks(page: str) -> Dict[str, List[Tuple[str, str]]]:
    """Kind and text of each block of a page, by the heading above."""
    parts = re.findall(r"^## (.+?)\n(.*?)(?=^## |\Z)", (ROOT / "docs" / page).read_text(), re.MULTILINE | re.DOTALL)
    return {heading: re.findall(r"^```(\w*)\n(.*?)^```", text, re.MULTILINE | re.DOTALL) for heading, text in parts}


def commands(page: str, heading: str) -> List[str]:
    """The blocks of commands under a heading."""
    return [text for kind, text in blocks(page)[heading] if kind == "sh"]
