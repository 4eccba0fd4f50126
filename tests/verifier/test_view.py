"""The ledger in a notebook: everything that the text says, nothing that the evidence could inject."""

from __future__ import annotations

import re
from html.parser import HTMLParser

from attested import World

from workshop_kit.verifier import AppraisalResult
from workshop_kit.verifier.ledger import RULES


class Page(HTMLParser):
    """Elements with their attributes, whether they nest, and the text outside of tags."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag != "br":
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data

    def named(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


def shown(result: AppraisalResult) -> Page:
    return Page(result._repr_html_())


def test_every_check_has_a_row_with_all_that_its_line_says(world: World) -> None:
    result = world.appraise(world.attest(), nonce=b"challenge")
    page = shown(result)
    assert len(page.named("tr")) == 1 + len(result.checks)
    for check in result.checks:
        for part in (check.name, check.outcome.value, check.expected, check.actual, check.reference, check.if_skipped):
            assert part in page.text
        assert check.explanation in page.text
    assert result.summary in page.text
    assert "Simulated evidence" in page.text


def test_the_table_is_read_without_its_colours(world: World) -> None:
    """A caption, headings with their scope, and each outcome in words; the mark beside it is not read aloud."""
    page = shown(world.appraise(world.attest()))
    assert len(page.named("caption")) == 1
    assert [attributes["scope"] for attributes in page.named("th")] == ["col"] * 6 + ["row"] * len(RULES)
    assert all(attributes == {"aria-hidden": "true"} for attributes in page.named("span"))


def test_each_sentence_of_the_verdict_has_a_line_and_each_fold_a_name_of_its_own(world: World) -> None:
    html = world.appraise(world.attest())._repr_html_()
    assert ">affirmed<br>Simulated evidence: " in html
    assert len(set(re.findall("<summary>(.*?)</summary>", html))) == len(RULES)


def test_what_a_failed_check_keeps_out_is_open_and_the_rest_is_folded(world: World) -> None:
    result = world.appraise(world.attest(), nonce=b"challenge")
    opened = ["open" in attributes for attributes in shown(result).named("details")]
    assert opened == [check.failed for check in result.checks]


def test_evidence_writes_no_html(world: World) -> None:
    evil = "<script>alert('x')</script>&amp;"
    page = shown(world.appraise(world.edited(module_id=evil)))
    assert page.named("script") == []
    assert "<script>alert('x')</script>&amp;" in page.text
