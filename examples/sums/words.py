"""Whole numbers below 1000 in English words, and back."""

SMALL = [
    "zero",
    "one",
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
    "ten",
    "eleven",
    "twelve",
    "thirteen",
    "fourteen",
    "fifteen",
    "sixteen",
    "seventeen",
    "eighteen",
    "nineteen",
]
TENS = ["twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]
VOCABULARY = [*SMALL, *TENS, "hundred"]


def in_words(number: int) -> str:
    """47 -> "forty seven", 105 -> "one hundred five". ValueError outside 0..999."""
    if not 0 <= number < 1000:
        raise ValueError(f"expected a number in 0..999, got {number}")
    hundreds, rest = divmod(number, 100)
    words = [SMALL[hundreds], "hundred"] if hundreds else []
    if rest >= 20:
        words.append(TENS[rest // 10 - 2])
        rest %= 10
    if rest or not words:
        words.append(SMALL[rest])
    return " ".join(words)


NUMBER_OF = {in_words(number): number for number in range(1000)}


def number_in(text: str) -> int | None:
    """The number that the number words of `text` give in order; None if there are none."""
    return NUMBER_OF.get(" ".join(word for word in text.split() if word in VOCABULARY))
