"""Train whichever of the four models is missing, or go on with it.

The main one's weights go into the package, the alternates' distributions into results/.
A model is there when what is kept of it was made by the fast recipe as it stands:
all four by one recipe, or they differ in more than the seed."""
import json
from dataclasses import asdict
from pathlib import Path
from shakespeare_ffn.alternate_models import load_distributions, save_distributions
from shakespeare_ffn.core import Parser, UserError, WEIGHTS, accelerator, command, device, reference
from shakespeare_ffn.core import write_atomically
from shakespeare_ffn.data import load_corpus
from shakespeare_ffn.model import load_model
from shakespeare_ffn.training import FAST, default_output, run_train

ROOT = Path(__file__).resolve().parents[1]
SEEDS = [int(seed) for seed in reference()['models']]

def distributions(seed) -> Path: return ROOT/'results'/'alternates'/f'seed{seed}.safetensors'

def fits(metadata, seed) -> bool: # metadata: None if there are none
    "Is this the metadata of the model of a seed, made by the fast recipe as it stands?"
    wanted = dict(seed=str(seed), recipe=json.dumps(asdict(FAST)))
    return metadata is not None and wanted.items() <= metadata.items()

def kept(seed) -> bool:
    "Is there what the project keeps of a model?"
    if seed == SEEDS[0]: return fits(load_model().metadata, seed)
    try: return fits(load_distributions(distributions(seed)).metadata, seed)
    except UserError: return False

def make(seed, device, corpus) -> str:
    "Train one model, unless its weights are there, and keep what the project needs of it."
    output = default_output(corpus, FAST.name, seed)
    if not output.exists():
        resume = output.with_name(output.name + '.checkpoint').exists()
        run_train(['--seed', str(seed), '--device', str(device), *(['--resume'] if resume else [])])
    model = load_model(output)
    if not fits(model.metadata, seed):
        raise UserError(f'{output} is not the model of seed {seed} '
                        'by the fast recipe as it stands; remove it')
    # the package carries the main model; of the others only what they say is kept
    if seed != SEEDS[0]:
        save_distributions(model, corpus, distributions(seed))
        return f'{distributions(seed)}: distributions of the model of seed {seed}; its weights are {output}'
    write_atomically(WEIGHTS, output.read_bytes())
    return f'{WEIGHTS}: the main model; now make calibrate, make reproduce and make bench'

def models(argv) -> str:
    p = Parser('models', allow_abbrev=False,
               description='Train whichever of the four models is missing, or go on with it.')
    p.add_argument('--seed', type=int, choices=SEEDS, help='this one only (default: all)')
    p.add_argument('--device', type=device, default=accelerator(),
                   help='cuda, mps or cpu (default: an NVIDIA GPU where there is one)')
    args = p.parse_args(argv)
    corpus, lines = load_corpus(), []
    for seed in [args.seed] if args.seed else SEEDS:
        lines.append(f'the model of seed {seed} is there' if kept(seed) else make(seed, args.device, corpus))
    return '\n'.join(lines)

if __name__ == '__main__': command('models', models)
