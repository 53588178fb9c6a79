"""The README in step with the code, and the Russian one with it."""

import re
from collections import Counter
from pathlib import Path
from typing import List

import pytest
from conftest import ROOT

ENGLISH = (ROOT / "README.md").read_text()
RUSSIAN = (ROOT / "docs" / "README.ru.md").read_text()


def blocks(text: str) -> List[str]:
    """What stands between fences, without comments and without what a diagram says in words."""
    found = re.findall(r"^```(\w*)\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    return [
        re.sub(r"\[\(SQLite:.*?\)\]", "", body) if kind == "mermaid" else without_comments(body) for kind, body in found
    ]


def without_comments(body: str) -> str:
    return "\n".join(line.split("  #")[0].rstrip() for line in body.splitlines())


def prose(text: str) -> str:
    return re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)


def test_both_have_the_same_headings_and_commands():
    levels = [re.findall(r"^#+(?= )", prose(text), re.MULTILINE) for text in (ENGLISH, RUSSIAN)]
    assert levels[0] == levels[1]
    assert blocks(ENGLISH) == blocks(RUSSIAN)


def test_both_name_the_same_settings_files_and_figures():
    """Everything in backticks, and every figure in a table."""
    english, russian = (Counter(re.findall(r"`[^`\n]+`", prose(text))) for text in (ENGLISH, RUSSIAN))
    assert english == russian
    cells = [
        re.findall(r"\d[\d.,]*", " ".join(re.findall(r"^\|.*", prose(text), re.MULTILINE)))
        for text in (ENGLISH, RUSSIAN)
    ]
    assert [cell.rstrip(".,") for cell in cells[0]] == [cell.rstrip(".,") for cell in cells[1]]


@pytest.mark.parametrize(("text", "folder"), [(ENGLISH, ROOT), (RUSSIAN, ROOT / "docs")])
def test_every_link_leads_somewhere(text, folder):
    for link in re.findall(r"\]\(([^)#:]+)\)", text):
        assert (folder / link).exists(), link


def test_every_setting_has_its_row_and_every_row_its_setting():
    rows = re.findall(r"^\| (`[A-Z_]+`(?:, `[A-Z_]+`)*) \|", ENGLISH, re.MULTILINE)
    told = {name for row in rows for name in re.findall(r"[A-Z_]+", row)}
    scripts = "".join(path.read_text() for path in ROOT.glob("*.py"))
    read = set(re.findall(r'service\.\w+\(\s*"([A-Z_]+)"', scripts)) | set(re.findall(r' = \w+\("([A-Z_]+)"', scripts))
    compose = set(re.findall(r"\$\{([A-Z_]+)", (ROOT / "docker-compose.yml").read_text()))
    assert told == read | compose | {"SSL_CERT_FILE"}  # which OpenSSL reads


def test_every_test_that_is_named_exists():
    tests = "".join(path.read_text() for path in Path(ROOT / "tests").glob("test_*.py"))
    for name in re.findall(r"`(test_\w+)`", ENGLISH):
        assert f"def {name}(" in tests
