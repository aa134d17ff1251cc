"""The `anneal` command: a REST client, and `anneal up`, the whole platform on one host."""
