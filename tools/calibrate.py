"Tune thresholds and weights for the weights that the package carries, and write them into the package."
import json
from dataclasses import asdict
from pathlib import Path
from shakespeare_ffn.data import load_corpus
from shakespeare_ffn.model import load_model
from shakespeare_ffn.similar_space import calibrate

if __name__ == '__main__':
    model = load_model()
    found = calibrate(load_corpus(), model)
    path = Path(__file__).resolve().parents[1]/'shakespeare_ffn'/'approximations.json'
    path.write_text(json.dumps({model.hash: asdict(found)}, indent=1) + '\n')
    print(found)
