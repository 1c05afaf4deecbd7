"""Links of all Markdown pages: to files and headings that are there, or well-formed https."""

import re
from collections import Counter
from functools import cache
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from markdown_it import MarkdownIt

ROOT = Path(__file__).parents[2]
FOLDERS = ("hparams", "lobes", "pretrained", "recipes", "tests")
PAGES = sorted([*ROOT.glob("*.md"), *(p for name in FOLDERS for p in (ROOT / name).rglob("*.md"))])
HTTP_ONLY = {"emodb.bilderbar.info"}  # its publishers name no https address
HOST = re.compile(r"([a-z0-9]([a-z0-9-]*[a-z0-9])?\.)+[a-z]{2,}")


def read(text):
    """Return the links and the anchors of the headings of a page, as GitHub makes them.

    An anchor is the heading in small letters, without punctuation, hyphens for spaces; one that is
    there already gets a number.
    """
    tokens = MarkdownIt("commonmark").enable("table").parse(text)
    links, anchors, times = [], set(), Counter()
    for before, token in zip([None, *tokens], tokens, strict=False):
        if token.type != "inline":
            continue
        links += [
            child.attrs.get("href") or child.attrs.get("src")
            for child in token.children
            if child.type in ("link_open", "image")
        ]
        if before.type == "heading_open":
            shown = "".join(child.content for child in token.children if child.type != "image")
            slug = re.sub(r"[^\w\- ]", "", shown.lower()).replace(" ", "-")
            anchors.add(f"{slug}-{times[slug]}" if times[slug] else slug)
            times[slug] += 1
    return links, anchors


@cache
def read_page(path):
    """Return what `read` does of a file."""
    return read(path.read_text(encoding="utf-8"))


def problem_of(link, page):
    """Return what is wrong with a link of a page, or None."""
    address = urlsplit(link)
    if address.scheme or address.netloc:
        scheme = "http" if address.netloc in HTTP_ONLY else "https"
        well_formed = address.scheme == scheme and HOST.fullmatch(address.netloc)
        good = well_formed and not re.search(r"[\s<>\"{}|\\^`]|[.,;:]$", link)
        return None if good else "is no well-formed https address"
    target = page.parent / unquote(address.path) if address.path else page
    if not target.exists():
        return "leads to no file"
    if not target.resolve().is_relative_to(ROOT):
        return "leads out of the repository"
    if address.fragment and address.fragment not in read_page(target)[1]:
        return "leads to no heading"
    return None


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    found = [(link, problem_of(link, page)) for link in read_page(page)[0]]
    assert [f"{link} {problem}" for link, problem in found if problem] == []


def test_every_page_is_found_from_the_front_page():
    found, waiting = set(), [ROOT / "README.md"]
    while waiting:
        page = waiting.pop()
        if page in found or page.suffix != ".md":
            continue
        found.add(page)
        paths = [urlsplit(link).path for link in read_page(page)[0] if "://" not in link]
        waiting += [(page.parent / unquote(path)).resolve() for path in paths if path]
    assert [str(page.relative_to(ROOT)) for page in PAGES if page not in found] == []


TEXT = """
# What `it` tells: of *z*, of u

## Twice
## Twice
## A [link](b.md#x)

Text [one](a.md), ![two](b.png "title") and `[three](c.md)`.

    [four](d.md)

| [five](e.md) | https://example.org |
|---|---|
"""


def test_links_and_anchors_are_read_as_github_shows_them():
    links, anchors = read(TEXT)
    assert links == ["b.md#x", "a.md", "b.png", "e.md"]
    assert anchors == {"what-it-tells-of-z-of-u", "twice", "twice-1", "a-link"}


@pytest.mark.parametrize(
    ("link", "problem"),
    [
        ("CONTRIBUTING.md", None),
        ("recipes", None),
        ("CONTRIBUTING.md#how-to-add", None),
        ("#releasing", None),
        ("CONTRIBUTING.md#how-to-fly", "leads to no heading"),
        ("#fly", "leads to no heading"),
        ("NOWHERE.md", "leads to no file"),
        ("..", "leads out of the repository"),
        ("https://arxiv.org/abs/2407.02543", None),
        ("http://arxiv.org/abs/2407.02543", "is no well-formed https address"),
        ("https://arxiv", "is no well-formed https address"),
        ("https://arxiv.org/abs/2407.02543.", "is no well-formed https address"),
        ("ftp://openslr.org", "is no well-formed https address"),
    ],
)
def test_a_link_that_leads_nowhere_is_told(link, problem):
    assert problem_of(link, ROOT / "CONTRIBUTING.md") == problem
