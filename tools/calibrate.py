"""Tune the approximations for the weights that the package carries, learn a measure, and write them into the
package; about an hour and a half on two cores."""
import json
from dataclasses import asdict
from pathlib import Path
from shakespeare_ffn.core import Parser, command, write_atomically
from shakespeare_ffn.corpus_keys import corpus_index
from shakespeare_ffn.data import load_corpus
from shakespeare_ffn.learned_measure import fit_and_keep, shipped_measure
from shakespeare_ffn.model import load_model
from shakespeare_ffn.nearest_strings import calibrate_nearest
from shakespeare_ffn.similar_space import calibrate

def ship(argv) -> dict:
    Parser('calibrate', description=__doc__, allow_abbrev=False).parse_args(argv)
    corpus, model = load_corpus(), load_model()
    found = asdict(calibrate(corpus, model)) | dict(nearest=asdict(calibrate_nearest(corpus, model)))
    shipped = Path(__file__).resolve().parents[1]/'shakespeare_ffn'/'approximations.json'
    write_atomically(shipped, (json.dumps({model.hash: found}, indent=1) + '\n').encode())
    fit_and_keep(shipped_measure(model), corpus_index(corpus, model), model)
    return found

if __name__ == '__main__': command('calibrate', ship)
