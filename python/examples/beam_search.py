"""Beam search: four beams; after each step the better half is kept and forked again."""

import espalier
from branch_search import search

tree = search(espalier.make_beam_search(width=4), prompt_tokens=200, steps=6, tokens_per_step=8)
assert len(tree.branches()) == 4
