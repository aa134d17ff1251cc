"""Times of the panel to the second, UTC, in an order that sorts."""

DATETIME_FORMAT = "Y-m-d H:i:s"
