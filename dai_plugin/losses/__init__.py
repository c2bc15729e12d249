"""Rows become a number: variance ratios, closed forms, ranks, weights."""
