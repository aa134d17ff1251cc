"""How a library in Rust says that it gives up."""

PANIC = "PanicException"
"""Name of the class that pyo3 raises. It cannot be imported, and is no Exception."""
