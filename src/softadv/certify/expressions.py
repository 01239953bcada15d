"""The text of a VNN-LIB file as nested lists of words."""

from __future__ import annotations

import re
from typing import Any

from softadv.errors import SoftadvError

_MOST_WORDS = 2**22
_DEEPEST = 200
_TOKEN = re.compile(r"[()]|[^\s()\[\]]*\[[^\[\]()]{0,200}\]|[^\s()\[\]]+|\S")


def nested(text: str) -> list[Any]:
    """A text of parentheses as nested lists of words. Raises SoftadvError for one that is damaged, or too large."""
    stack: list[list[Any]] = [[]]
    for count, word in enumerate(_TOKEN.finditer(re.sub(r";[^\n]*", "", text)), 1):
        if count > _MOST_WORDS:
            raise SoftadvError(f"has more than {_MOST_WORDS:,} words")
        token = word[0]
        if token == "(":
            if len(stack) > _DEEPEST:
                raise SoftadvError(f"nests more than {_DEEPEST} parentheses")
            stack.append([])
        elif token == ")":
            if len(stack) == 1:
                raise SoftadvError("closes a parenthesis that is not open")
            done = stack.pop()
            stack[-1].append(done)
        else:
            stack[-1].append(token)
    if len(stack) > 1:
        raise SoftadvError("ends within a parenthesis: was it cut off?")
    return stack[0]
