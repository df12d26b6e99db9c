"""How far a figure of `results/summary.json` may be from the one that comes out on another machine.

Sums in float32 differ in their last digits between processors. So does the rounding of a few numbers of
the index, then a similarity by a hundred-thousandth, then, rarely, whether a string passes a threshold;
thousands of steps of gradient descent magnify such differences. Two full runs agree within these: one on
AMX, with an index in bfloat16, one on AVX2, in float32, with embeddings that a GPU learned."""
import re
from typing import NamedTuple

class Within(NamedTuple):
    "A number may be off by `absolute`, or by `relative` times the committed one, whichever is more."
    absolute: float
    relative: float
    def __str__(self): return f'{self.absolute:g} or {self.relative:.1%}'

EXACT, ANY = Within(0, 0), None # ANY: not compared at all

# By type, where no rule below says otherwise. Text, and how many numbers a row has, are always exact.
BY_TYPE = {int: Within(3, .005), float: Within(.001, .005)}

RULES = [ # notebook, name of the row: regular expressions, of which the first that fit decide
    ('00_data', '', EXACT),                                         # facts of the corpus
    ('02_training', '', EXACT),                                     # read from the files of the four models
    ('09_alternate_models', 'loss of seed', EXACT),                 # likewise
    ('', 'seconds', ANY),
    # a grid's best point: a step of the grid
    ('07', 'best_threshold|at_our_best', Within(.0101, .3)),
    ('07', 'weights_by_gradient_descent', Within(.03, 0)),
    # a share of 500 prompts: two of them
    ('07', 'block_alone_top_1', Within(.005, .005)),
    # of a single prompt, or of a few strings: one string more or less
    ('07', 'of prompt |^next character|strings_of|worst|block_0_|thought', Within(.05, .05)),
    ('14', 'prompts_33_and_36|nearest_33_and_36', Within(.02, .05)),
    # the worst prompt of all
    ('07', '^Hellinger distance|mean_and_max|max_matches', Within(.005, .01)),
    ('', 'most_tokens_needed', Within(2, 0)),
    # what gradient descent has learned, and all that rests on it
    ('11_learned_embeddings', '', Within(.01, .03)),
    ('1[23][a-z]?_', '', Within(.03, .05)),
    ('14', 'chance', Within(.003, .02)),
    ('14', '', Within(.01, .03)),
    # a grid's best point, and what is fitted to it
    ('07c', 'chosen', Within(2.01, .09)),
    ('07c', 'weights', Within(.05, 0)),
    ('19', 'chosen|effective_number', Within(4.01, .5)),
    # medians of whole numbers, of prompts drawn anew
    ('18', 'nearest_times', Within(.1, .05)),
    # drawn, or put into a run of the model
    ('1[89]', '', Within(.003, .02)),
    # a model that is trained anew
    ('23', '', Within(.02, .1)),
    # a codebook by k-means
    ('22', '', Within(.005, .02)),
]

# Recorded only where the embeddings of early stages are in the user's cache, or as many as a GPU learns
OF_EARLY_STAGES = r'stage [1-5]|_from_the_last_stage|block [0-3]|own stage|own_stage|real length'
MAY_BE_MISSING = [('1[124][a-z]?_', OF_EARLY_STAGES)]

def fits(rule, notebook: str, name: str) -> bool:
    "Is a rule for this row?"
    return bool(re.match(rule[0], notebook) and re.search(rule[1], name))

def tolerance(notebook: str, name: str, number): # → Within, or None for any
    "What one number of a row may be off by."
    for rule in RULES:
        if fits(rule, notebook, name): return rule[2]
    return BY_TYPE[type(number)]

def may_be_missing(notebook: str, name: str) -> bool:
    return any(fits(rule, notebook, name) for rule in MAY_BE_MISSING)

def numbers(x) -> list:
    "A row's figures, one after the other, and where lists begin and end."
    return ['[', *(y for item in x for y in numbers(item)), ']'] if isinstance(x, list) else [x]

def is_number(x) -> bool: return isinstance(x, (int, float)) and not isinstance(x, bool)

def near(committed, found, within: Within) -> bool:
    return abs(committed-found) <= max(within.absolute, within.relative*abs(committed)) + 1e-12

def agrees(notebook: str, name: str, committed, found) -> tuple: # bool; the tolerance as text
    "Is a row that came out what the committed one says, within its tolerance?"
    a, b, lenient = numbers(committed), numbers(found), may_be_missing(notebook, name)
    within = next((tolerance(notebook, name, x) for x in a if is_number(x)), EXACT)
    if within is ANY: return True, 'any'
    if len(a) != len(b): return False, 'as many'
    def alike(x, y):
        if is_number(x) and is_number(y): return near(x, y, tolerance(notebook, name, x))
        return x == y or lenient and None in (x, y)
    return all(map(alike, a, b)), str(within) if within != EXACT else 'exact'
