"""Whether an answer is the expected one: the whole text, or the number after ####."""

import re
from typing import Literal

AnswerFormat = Literal["auto", "gsm8k", "plain"]
NUMBER = re.compile(r"#\s*#\s*#\s*#\s*\$?\s*(-?\s*\.?\d+(?:\s*[.,]\s*\d+)*)")
"""With the spaces that BERT's tokenizer puts around every sign."""


def answers_equal(given: str, expected: str, form: AnswerFormat) -> bool:
    """gsm8k: the number after the last #### of both, "1,000" being 1000.0; plain: all but white space around words."""
    if form == "plain" or (form == "auto" and final_number(expected) is None):
        return given.split() == expected.split()
    number = final_number(given)
    return number is not None and number == final_number(expected)


def final_number(text: str) -> float | None:
    """The number after the last ####, as GSM8K writes its answers; None where there is none."""
    found = NUMBER.findall(text)
    if not found:
        return None
    try:
        return float(re.sub(r"[\s,]", "", found[-1]))
    except ValueError:
        return None
