"""How many bytes an upload may decode to: in each Parquet file, in all of them together, in all images together."""

from api.catalog.checking.report import Refused

MIN_DECODED_BYTES = 256 << 20
"""What any upload may decode to, however small it is: seconds of work."""
MAX_RATIO = 500
"""Decoded bytes for each byte of the file above that. Repeated values compress well: a system prompt of 10 KB in each
of 100,000 rows beside an answer of 100 bytes is about 1 GB out of 4 MB, 250 for 1. A bomb reaches 200,000,000 for 1."""
MAX_DECODED_BYTES = 64 << 30
"""In all; a file that itself is larger than a quarter of this may decode to four times its size."""
MIN_IMAGE_BYTES = 64 << 30
"""Pixels of all images of an upload, however small its files are: minutes of work."""
IMAGE_RATIO = 100
"""Bytes of pixels for each byte of the files above that. JPEG of low quality has 50 for 1, a plain PNG 1,000."""
PIXEL_BYTES = 4


class DecodedBudget:
    """What may still be decoded of `source`, which is a path or the whole upload."""

    def __init__(self, source: str, limit_bytes: int, hint: str) -> None:
        self._source = source
        self._limit_bytes = limit_bytes
        self._hint = hint
        self._decoded_bytes = 0

    def add(self, size_bytes: int, where: str) -> None:
        """Raises Refused once more than the limit was decoded."""
        self._decoded_bytes += size_bytes
        if self._decoded_bytes > self._limit_bytes:
            expected = f"expected at most {self._limit_bytes} bytes once decoded"
            raise Refused(f"{self._source}: {expected}, got more within {where}", code="check_limit", hint=self._hint)


def rows_budget(source: str, file_bytes: int) -> DecodedBudget:
    """Of one Parquet file, or of all that an upload holds."""
    hint = "Store repeated text once, as a parameter, or split the file; then upload again."
    return DecodedBudget(source, decoded_limit(file_bytes), hint)


def images_budget(file_bytes: int) -> DecodedBudget:
    limit = max(MIN_IMAGE_BYTES, IMAGE_RATIO * file_bytes)
    return DecodedBudget("the upload", limit, "Make the images smaller, or upload them as several datasets.")


def decoded_limit(file_bytes: int) -> int:
    """Bytes that Parquet files of this size may decode to."""
    by_ratio = max(MIN_DECODED_BYTES, MAX_RATIO * file_bytes)
    return min(by_ratio, max(MAX_DECODED_BYTES, 4 * file_bytes))
