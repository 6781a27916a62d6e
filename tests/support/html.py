"""HTML as tests read it."""

from __future__ import annotations

import re
from html.parser import HTMLParser

# A text that would run a script where it is not escaped.
HOSTILE = "<script>alert(1)</script>\"'><img src=x onerror=alert(1)>"


class ParsedHtml(HTMLParser):
    """The tags, attributes and text of HTML whose tags are balanced."""

    def __init__(self, content: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self._open: list[str] = []
        self.feed(content)
        self.close()
        assert not self._open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in ("br", "img"):
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self._open[-1:] != ["style"]:
            self.text.append(data)

    def all(self, name: str) -> list[dict[str, str | None]]:
        return [attributes for tag, attributes in self.tags if tag == name]


def selectors(html: str) -> list[str]:
    """The selectors of all style sheets."""
    styles = re.findall(r"<style>(.*?)</style>", html, re.DOTALL)
    rules = re.findall(r"([^{}]+)\{[^{}]*\}", "".join(styles))
    return [one.strip() for rule in rules for one in rule.split(",")]
