"""Tune thresholds and weights for the weights that the package carries, and write them into the package.

Or, with --model and the --text that it was trained on, for a model of your own: they are kept in the cache folder, where `ffn_explain` finds them."""
import json
from dataclasses import asdict
from pathlib import Path
from shakespeare_ffn.data import Parser, command, load_corpus, write_atomically
from shakespeare_ffn.explain import check_match
from shakespeare_ffn.model import load_model
from shakespeare_ffn.similar_space import Approximation, calibrate

def tune(argv) -> Approximation:
    p = Parser('calibrate', description='Tune thresholds and weights for a model.', allow_abbrev=False)
    p.add_argument('--model', metavar='FILE', help='weights that ffn_train wrote (default: those that the package carries)')
    p.add_argument('--text', metavar='FILE', help='the text they were trained on (default: Tiny Shakespeare)')
    args = p.parse_args(argv)
    corpus, model = load_corpus(args.text), load_model(args.model)
    check_match(corpus, model)
    found = calibrate(corpus, model)
    shipped = Path(__file__).resolve().parents[1]/'shakespeare_ffn'/'approximations.json'
    if args.model is None: write_atomically(shipped, (json.dumps({model.hash: asdict(found)}, indent=1) + '\n').encode())
    return found

if __name__ == '__main__': command('calibrate', tune)
