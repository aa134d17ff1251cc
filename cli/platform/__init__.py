"""`anneal up`: the whole platform as processes of one host."""
