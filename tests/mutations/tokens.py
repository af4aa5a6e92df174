"""Finds and replaces C++ code by its tokens: whitespace, line breaks and comments do not count."""

from __future__ import annotations

import re
from dataclasses import dataclass

_TOKEN = re.compile(
    r"""
      (?P<space> \s+ | \\\n | //[^\n]* | /\*.*?\*/ )
    | (?P<raw> (?:u8|[uUL])?R"(?P<mark>[^()\\\s]{0,16})\(.*?\)(?P=mark)" )
    | (?P<string> (?:u8|[uUL])?"(?:\\.|[^"\\\n])*" )
    | (?P<char> (?:u8|[uUL])?'(?:\\.|[^'\\\n])+' )
    | (?P<number> \.?[0-9](?:[eEpP][+-]|'?[0-9A-Za-z_]|\.)* )
    | (?P<name> [A-Za-z_]\w* )
    | (?P<operator> <<=|>>=|<=>|->\*|\.\.\.|::|\.\*|->|\+\+|--|<<|>>|&&|\|\||\#\#|[-+*/%&|^<>=!]= )
    | (?P<other> [^\s\w"'\\] )
    """,
    re.VERBOSE | re.DOTALL,
)


@dataclass(frozen=True)
class Token:
    text: str
    begin: int
    end: int


def tokens(code: str) -> list[Token]:
    """The tokens of C++ code. The line break that ends a preprocessor directive is one, too."""
    found: list[Token] = []
    at = 0
    starts_line = True
    in_directive = False
    while at < len(code):
        match = _TOKEN.match(code, at)
        if match is None:
            line = code.count("\n", 0, at) + 1
            raise ValueError(f"line {line}: not a C++ token: {code[at : at + 20]!r}")
        text, at = match.group(), match.end()
        if match.lastgroup != "space":
            in_directive |= starts_line and text == "#"
            starts_line = False
            found.append(Token(text, match.start(), at))
        elif "\n" in text and text[0].isspace():  # neither a continued line nor a comment
            if in_directive:
                found.append(Token("\n", match.start(), at))
            starts_line, in_directive = True, False
    return found


def texts(code: str) -> list[str]:
    return [token.text for token in tokens(code)]


def find(code: str, part: str) -> list[tuple[int, int]]:
    """Where the tokens of ``part`` occur in ``code``, as ranges of characters."""
    all_, wanted = tokens(code), texts(part)
    if not wanted:
        raise ValueError(f"no token to look for in {part!r}")
    starts = range(len(all_) - len(wanted) + 1)
    return [
        (all_[i].begin, all_[i + len(wanted) - 1].end)
        for i in starts
        if [token.text for token in all_[i : i + len(wanted)]] == wanted
    ]


def replace(code: str, old: str, new: str) -> str:
    """``code`` with the only occurrence of ``old`` replaced. ValueError if it is not the only one,
    or if ``new`` would merge with its neighbours into other tokens.
    """
    places = find(code, old)
    if len(places) != 1:
        raise ValueError(f"expected {old!r} once, found it {len(places)} times")
    ((begin, end),) = places
    before, after = code[:begin], code[end:]
    result = before + new + after
    if texts(result) != texts(before) + texts(new) + texts(after):
        raise ValueError(f"{new!r} merges with the tokens beside it")
    return result
