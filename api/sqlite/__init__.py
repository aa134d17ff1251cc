"""SQLite with one fair line of writers in a process. The ENGINE of an embedded platform."""
