"""Tree of thoughts: each level expands three survivors into four thoughts; the best thought of the last is left."""

import espalier
from branch_search import search

controller = espalier.make_tree_of_thoughts(keep=3, expand=4, depth=3)
tree = search(controller, prompt_tokens=300, steps=3, tokens_per_step=25)
assert len(tree.branches()) == 1
