"""Train other models, tune the approximation for each and score it; score other vectors and other lengths of
strings: what nbs/17_what_it_depends_on.ipynb and nbs/20_which_vector.ipynb compare with the main model.

A variant whose scores are in results/variants/ is left as it is, and a run that was stopped goes on.
Each takes some minutes on a GPU. On two cores with AVX2 it takes about half an hour besides the
training, which takes most of a day; the article's recipe takes an hour more, for learned embeddings.
An index is removed once it has been used: the largest has 16 GB."""
import shutil
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple
import torch
from shakespeare_ffn.approximation_details import criterion, nearest, predicted_tokens
from shakespeare_ffn.core import Parser, UserError, accelerator, by_scale, cache_dir, command, device
from shakespeare_ffn.core import existing_file, scale
from shakespeare_ffn.corpus_keys import KeyIndex, corpus_index
from shakespeare_ffn.data import Corpus, load_corpus, prompt_ids
from shakespeare_ffn.learned_embeddings import stage_embeddings
from shakespeare_ffn.scores import examine, load_scores, mean_lengths, overlap, save_counts, save_scores
from shakespeare_ffn.model import Transformer, load_model, next_char_probs
from shakespeare_ffn.nearest_strings import BETAS, calibrate_nearest, nearest_approximation, tune_nearest
from shakespeare_ffn.similar_space import article_approximation, calibrate, prompt_counts, tuned_approximation
from shakespeare_ffn.svd_helpers import projection_cosine, subspaces
from shakespeare_ffn.training import run_train

ROOT = Path(__file__).resolve().parents[1]
BIBLE = 'b5c4940bcfeee072c0935b5200d0f9d88a00a0199cb0961d16133458fcdfae5d'
HOW_BIBLE = ("give --text FILE with the King James Bible, a verse a line (from Debian's package bible-kjv: "
             "bible -f Ge1:1-Re22:21 | cut -d' ' -f2-)")

class Variant(NamedTuple):
    "What differs from the main model."
    options: tuple = ()   # of ffn_train; none: the package's weights
    text: str = None      # SHA-256 of another text that it is trained on
    length: int = 10      # of the strings
    part: str = 'ffwd'    # which activation of each block is compared
    trained: bool = True  # or as it is before the first step
    thresholds: bool = True # tuned as well, which takes longer than the nearest strings

VARIANTS = {
    'main': Variant(),
    'article recipe': Variant(('--recipe', 'article')),
    'another seed': Variant(('--seed', '88'), thresholds=False), # for its classes
    'early': Variant(('--stop-at', '2')),
    'smaller': Variant(('--layers', '3', '--width', '192')),
    'larger': Variant(('--layers', '8', '--width', '512')),
    'Bible': Variant(('--seed', '1337'), BIBLE),
    'hidden layer': Variant(part='hidden'),
    'untrained': Variant(trained=False),
    **{f'length {n}': Variant(length=n) for n in (1, 2, 3, 5, 7, 14, 20)}}

def slug(name: str) -> str: return name.replace(' ', '-')

def scores_file(name: str) -> Path:
    folder = by_scale(ROOT/'results', cache_dir())/'variants'
    return folder/f'{slug(name)}.safetensors'

def is_there(path: Path) -> bool:
    "Are there scores, and can they be read?"
    try: return bool(load_scores(path).metadata)
    except UserError: return False

def text_of(variant: Variant, path) -> Corpus:
    "The text that a variant is trained on; a `UserError` if it is to be another one and is not given."
    if not variant.text: return load_corpus()
    if not path: raise UserError(HOW_BIBLE)
    corpus = load_corpus(path)
    if corpus.sha256 != variant.text and scale() == 'full':
        raise UserError(f'{path} is another text; {HOW_BIBLE}')
    return corpus

def weights_of(name: str, where, text) -> Path:
    "The weights of a variant, trained if they are not there, or as far as they are not."
    output, variant = cache_dir()/'models'/f'variant-{slug(name)}-{scale()}.safetensors', VARIANTS[name]
    if output.exists(): return output
    going_on = output.with_name(output.name + '.checkpoint').exists()
    run_train([*variant.options, *(['--text', str(text)] if variant.text else []), '--device', str(where),
               '--output', str(output), *(['--resume'] if going_on else [])])
    return output

def model_of(name: str, where, text) -> Transformer:
    "The model of a variant."
    variant, main = VARIANTS[name], load_model(device=where)
    if variant.options: return load_model(weights_of(name, where, text), where)
    if variant.trained: return main
    torch.manual_seed(0)
    model = Transformer(main.config).to(where).eval()
    model.tokenizer = main.tokenizer
    return model

def few() -> dict: return by_scale({}, dict(n=50, betas=BETAS[::6])) # to tune on

def tuned(corpus: Corpus, index: KeyIndex, thresholds=True) -> dict: # name → approximation
    "Approximations tuned for the model and the strings of an index."
    rules = {'nearest': calibrate_nearest(corpus, index.model, index, progress=False, **few())}
    # a model that needs more neighbours than others is scored with as many as they have, too
    if rules['nearest'].k > 1000: rules['nearest 1000'] = replace(rules['nearest'], k=1000)
    if thresholds:
        rules['thresholds'] = calibrate(corpus, index.model, index, n=by_scale(4000, 100), progress=False)
    return rules

def shipped(model: Transformer) -> dict: # name → approximation
    return {'thresholds': tuned_approximation(model), 'nearest': nearest_approximation(model)}

def of_length(corpus: Corpus, index: KeyIndex, n: int) -> tuple: # what `examine` finds, rules
    "The main model by strings of another length, by its rules as they are and, given enough strings, tuned."
    rules = {f'{name} of 10': rule for name, rule in shipped(index.model).items()}
    if len(index.strings) > 10_000: rules |= tuned(corpus, index)
    return examine(corpus, index, rules, n), rules

def of_vectors(corpus: Corpus, main: Transformer, index: KeyIndex, n: int) -> tuple: # as above
    "The main model by other vectors than its feed-forward outputs."
    probs = next_char_probs(main, index.strings.tokens(prompt_ids(index.strings, n))).cpu()
    rules = {'nearest': tune_nearest(main, index, progress=False, **few())}
    return examine(corpus, index, rules, n, probs), rules

def of_model(corpus: Corpus, index: KeyIndex, variant: Variant, n: int) -> tuple: # as above
    "A model by its own strings; one of the article's size by the article's values as well."
    rules = tuned(corpus, index, variant.thresholds) if variant.options else shipped(index.model)
    by_article = len(index.keys) == 6 and not variant.text and variant.thresholds
    if by_article: rules['article'] = article_approximation()
    return examine(corpus, index, rules, n) | mean_lengths(index, min(n, 2000)), rules

def beside_main(corpus: Corpus, index: KeyIndex, rule, n: int, where) -> dict: # name → tensor
    "Do a model's classes say what the main model says, and are they the main model's?"
    main = corpus_index(corpus, load_model(device=where), arithmetic='float32')
    ids = prompt_ids(index.strings, n)
    probs = next_char_probs(main.model, index.strings.tokens(ids)).cpu()
    found = examine(corpus, index, {'for main': rule}, n, probs)
    own = torch.as_tensor(index.row_of[ids]).long()
    for v in nearest_approximation(main.model).votes:
        if v.block >= len(index.keys): continue # at smoke scale
        two = [v.nearest(i.queries([i.strings[j] for j in ids]), i.keys, rule.k, own) for i in (main, index)]
        found[f'overlap block {v.block}'] = overlap(*two)
    return found

def pointing(index: KeyIndex, counts, n: int, where) -> dict: # name → (n_blocks, n) bool
    "Do feed-forward outputs point at what is predicted, by the last stage and by two blocks' own?"
    n_layer, prompts = len(index.keys), [index.strings[i] for i in prompt_ids(index.strings, n)]
    ffwd, predicted = index.queries(prompts).float().to(where), predicted_tokens(counts).to(where)
    def points(block, stage):
        directions = subspaces(stage_embeddings(index.model, stage, progress=False).embeddings)
        return criterion(predicted[block], nearest(projection_cosine(ffwd[block], directions))).cpu()
    own = (n_layer-3, n_layer-2) # as in the article
    return {'points, last stage': torch.stack([points(b, n_layer) for b in range(n_layer)]),
            'points, own stage': torch.stack([points(b, b+1) for b in own])}

def score(name: str, corpus: Corpus, index: KeyIndex, where) -> tuple: # as above
    "What there is to be found of a variant."
    variant = VARIANTS[name]
    n = min(by_scale(20_000, 200) if variant.length == 10 else by_scale(2000, 200), len(index.strings))
    if variant.length != 10: return of_length(corpus, index, n)
    if variant.part != 'ffwd' or not variant.trained:
        return of_vectors(corpus, load_model(device=where), index, n)
    found, rules = of_model(corpus, index, variant, n)
    if name == 'another seed': found |= beside_main(corpus, index, rules['nearest'], n, where)
    if name == 'article recipe': # to be compared with others
        tokens = index.strings.tokens(prompt_ids(index.strings, n))
        found['probs'] = next_char_probs(index.model, tokens).half().cpu()
        counts, _ = prompt_counts(corpus, index.model, rules['thresholds'].thresholds, n, index)
        path = scores_file(name)
        save_counts(path.with_name(f'{path.stem}-counts.npz'), counts)
        found |= pointing(index, counts, n, where)
    return found, rules

def make(name: str, where, text) -> str:
    "Train and score a variant, unless that is done."
    path, variant = scores_file(name), VARIANTS[name]
    if is_there(path): return f'{name} is there'
    corpus, model = text_of(variant, text), model_of(name, where, text)
    index = corpus_index(corpus, model, variant.length, 'float32', part=variant.part)
    found, rules = score(name, corpus, index, where)
    # as many as the article counted
    found |= {k: x[:, :500].contiguous() for k, x in found.items() if k.endswith('matches')}
    path.parent.mkdir(parents=True, exist_ok=True)
    metadata = getattr(model, 'metadata', {}) | dict(length=str(variant.length), n_strings=str(len(index)))
    save_scores(path, found, rules, metadata)
    if name != 'main': shutil.rmtree(index.path)
    means = [f'{k} {x.mean():.4f}' for k, x in found.items() if k.endswith('distance')]
    return f'{path}: {", ".join(means)}'

def variants(argv) -> str:
    p = Parser('variants', description=__doc__, allow_abbrev=False)
    p.add_argument('names', nargs='*', metavar='NAME', help=f'of {", ".join(VARIANTS)} (default: all)')
    p.add_argument('--text', type=existing_file, metavar='FILE',
                   help='the King James Bible, for that variant')
    p.add_argument('--device', type=device, default=accelerator(),
                   help='cuda, mps or cpu (default: an NVIDIA GPU where there is one)')
    args = p.parse_args(argv)
    if unknown := set(args.names) - set(VARIANTS):
        raise UserError(f'no variant is called {unknown.pop()!r}; there are {", ".join(VARIANTS)}')
    return '\n'.join(make(name, args.device, args.text) for name in args.names or VARIANTS)

if __name__ == '__main__': command('variants', variants)
