"""Random networks in random training loops, against the literal objective."""
