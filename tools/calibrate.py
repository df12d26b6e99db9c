"""Tune thresholds and weights for the weights that the package carries, and write them into the package."""
import json
from dataclasses import asdict
from pathlib import Path
from shakespeare_ffn.core import Parser, command, write_atomically
from shakespeare_ffn.data import load_corpus
from shakespeare_ffn.model import load_model
from shakespeare_ffn.similar_space import Approximation, calibrate

def ship(argv) -> Approximation:
    Parser('calibrate', description=__doc__, allow_abbrev=False).parse_args(argv)
    model = load_model()
    found = calibrate(load_corpus(), model)
    shipped = Path(__file__).resolve().parents[1]/'shakespeare_ffn'/'approximations.json'
    write_atomically(shipped, (json.dumps({model.hash: asdict(found)}, indent=1) + '\n').encode())
    return found

if __name__ == '__main__': command('calibrate', ship)
