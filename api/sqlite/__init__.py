"""SQLite with a fair queue of writers in each process. The ENGINE of an embedded platform."""
