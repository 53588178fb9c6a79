"""The pages in step with the code, and the Russian README with the English one."""

import math
import re
from collections import Counter
from pathlib import Path
from typing import List, Set

import pytest

from support.paths import ROOT

PAGES = [ROOT / "README.md", *ROOT.glob("docs/*.md"), *ROOT.glob("examples/*/*.md")]
ENGLISH, RUSSIAN = ((ROOT / page).read_text() for page in ("README.md", "docs/README.ru.md"))


FENCES = re.compile(r"^ *```.*?^ *```", re.MULTILINE | re.DOTALL)


def fenced(text: str) -> List[str]:
    """What stands between fences, without comments and without what the diagram says in words."""
    return [re.sub(r" +#.*|\[\(SQLite:.*", "", block) for block in FENCES.findall(text)]


def headings(text: str) -> List[str]:
    return re.findall(r"^#+ (.*)", FENCES.sub("", text), re.MULTILINE)


def anchors(page: Path) -> Set[str]:
    """What a link into a page may name, as GitHub makes it of its headings."""
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings(page.read_text())}


def test_the_readme_is_short():
    assert len(ENGLISH.splitlines()) <= 150


def test_both_readmes_have_the_same_headings_commands_and_names():
    assert len(headings(ENGLISH)) == len(headings(RUSSIAN))
    assert fenced(ENGLISH) == fenced(RUSSIAN)
    names = [Counter(re.findall(r"`[^`\n]+`", text)) for text in (ENGLISH, RUSSIAN)]
    assert names[0] == names[1]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_leads_somewhere(page):
    for link in re.findall(r"\]\(([^)\s:]+)\)", page.read_text()):
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


def test_every_page_is_found_from_the_readme():
    assert {page.name for page in ROOT.glob("docs/*.md")} == set(re.findall(r"\(docs/([\w.-]+\.md)\)", ENGLISH))


CODE = "".join(path.read_text() for path in [*ROOT.glob("*.py"), *ROOT.glob("parts/**/*.py")])
COMPOSE = (ROOT / "docker-compose.yml").read_text()
SETTINGS = (ROOT / "docs" / "settings.md").read_text()


def test_every_setting_has_its_row_and_every_row_its_setting():
    rows = re.findall(r"^\| (`[A-Z_]+`(?:, `[A-Z_]+`)*) \|", SETTINGS, re.MULTILINE)
    told = [name for row in rows for name in re.findall(r"[A-Z_]+", row)]
    read = re.findall(r'settings\.\w+\(\s*"([A-Z_]+)"', CODE) + re.findall(r"\$\{([A-Z_]+)", COMPOSE)
    assert sorted(told) == sorted({*read, "SSL_CERT_FILE"})  # which OpenSSL reads


def test_the_defaults_that_are_told_are_those_of_the_code():
    told = re.findall(r"^\| `([A-Z_]+)` \| `([^`]+)`", SETTINGS + ENGLISH, re.MULTILINE)
    defaults = dict(re.findall(r' = settings\.\w+\("([A-Z_]+)", "?([^,")]+)', CODE))
    defaults.update(re.findall(r"\$\{([A-Z_]+):-([^}]+)\}", COMPOSE))
    for name, default in told:
        assert defaults[name] in {default, f"{default}.0"}, name


def test_every_test_that_is_named_exists():
    tests = "".join(path.read_text() for path in ROOT.glob("tests/**/test_*.py"))
    for page in PAGES:
        for name in re.findall(r"`(test_\w+)`", page.read_text()):
            assert f"def {name}(" in tests, f"{page.name}: {name}"


def test_every_file_that_is_named_exists():
    for page in PAGES:
        for name in re.findall(r"`((?:tests|deploy|parts|docs)/[\w./]+)`", page.read_text()):
            assert (ROOT / name).exists() or "test_units" in name, f"{page.name}: {name}"


def test_the_cores_of_a_million_samples_a_second_are_those_of_the_cpu_table():
    measured, computed = ((ROOT / "docs" / page).read_text() for page in ("performance.md", "scaling.md"))
    cpu = re.findall(r"\| 100 samples a message \|" + 5 * r" ([\d.]+) \|", measured)
    assert cpu == re.findall(r"\| cores at a million samples a second \|" + 5 * r" ([\d.]+) \|", computed)
    [processes] = re.findall(r"\| processes \|" + 3 * r" (\d+) \|", computed)
    assert [int(count) for count in processes] == [math.ceil(float(cores)) for cores in cpu[0][:3]]
