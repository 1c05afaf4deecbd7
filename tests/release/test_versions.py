"""The version stands in three places, which agree, and what cites the project can be read."""

import datetime
import re
from pathlib import Path

import pytest
import yaml

import pretrained
from pretrained.__main__ import main

ROOT = Path(__file__).parents[2]
HEADING = r"^## \[(\d+\.\d+\.\d+)\] - (\d{4}-\d\d-\d\d)$"
SECTIONS = {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}


@pytest.fixture(scope="module")
def changelog():
    return (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def citation():
    return yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))


def test_the_versions_agree(changelog, citation):
    version, date = re.findall(HEADING, changelog, re.MULTILINE)[0]
    assert version == pretrained.__version__ == str(citation["version"])
    assert date == str(citation["date-released"])


def test_the_package_takes_its_version_from_the_code():
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert 'version = { attr = "pretrained.__version__" }' in text
    assert re.search(r'^version = "', text, re.MULTILINE) is None


def test_the_command_line_tells_its_version(capsys):
    with pytest.raises(SystemExit) as caught:
        main(["--version"])
    assert caught.value.code == 0
    assert capsys.readouterr().out == f"learn2diss {pretrained.__version__}\n"


def test_the_changelog_is_in_order(changelog):
    headings = re.findall(r"^## (.*)$", changelog, re.MULTILINE)
    assert headings[0] == "[Unreleased]" or re.match(HEADING, f"## {headings[0]}")
    released = re.findall(HEADING, changelog, re.MULTILINE)
    assert len(released) == len([heading for heading in headings if heading != "[Unreleased]"])
    versions = [tuple(map(int, version.split("."))) for version, _ in released]
    dates = [datetime.date.fromisoformat(date) for _, date in released]
    assert versions == sorted(set(versions), reverse=True) and dates == sorted(dates, reverse=True)
    assert set(re.findall(r"^### (.*)$", changelog, re.MULTILINE)) <= SECTIONS


def test_the_citation_names_what_is_needed(citation):
    assert citation["cff-version"] == "1.2.0" and citation["type"] == "software"
    assert citation["license"] == "Apache-2.0" and citation["authors"] and citation["message"]
    assert [reference["url"] for reference in citation["references"]] == [
        "https://arxiv.org/abs/2407.02543"
    ]
