"The tool that scores other models: what it refuses, what it leaves alone, and that its files can be read."
from pathlib import Path
import pytest, torch
from shakespeare_ffn.core import UserError
from shakespeare_ffn.scores import load_scores, save_scores

ROOT = Path(__file__).resolve().parents[1]

@pytest.fixture
def tool(monkeypatch):
    monkeypatch.syspath_prepend(ROOT/'tools')
    import variants
    return variants

def test_what_is_refused(tool, tmp_path, monkeypatch):
    other = tmp_path/'other.txt'
    other.write_text('In the beginning was another word. '*100, encoding='utf-8')
    with pytest.raises(UserError, match="'nobody'; there are main, "): tool.variants(['nobody'])
    monkeypatch.setattr(tool, 'scores_file', lambda name: tmp_path/name)
    with pytest.raises(UserError, match='give --text FILE'): tool.variants(['Bible'])
    monkeypatch.setenv('SHAKESPEARE_FFN_SCALE', 'full')
    with pytest.raises(UserError, match='is another text'): tool.variants(['Bible', '--text', str(other)])

def test_what_is_there_is_left_alone(tool, tmp_path, monkeypatch):
    save_scores(tmp_path/'Bible', dict(same=torch.ones(2)), {}, dict(length='10'))
    monkeypatch.setattr(tool, 'scores_file', lambda name: tmp_path/name)
    assert tool.variants(['Bible']) == 'Bible is there'

@pytest.mark.parametrize('damage', [lambda x: b'', lambda x: x[:-1], lambda x: bytes(len(x))])
def test_damaged_scores_are_computed_again(tool, tmp_path, monkeypatch, damage):
    "or the notebooks, which name `make variants`, would stay as they are"
    save_scores(tmp_path/'Bible', dict(same=torch.ones(2)), {}, dict(length='10'))
    (tmp_path/'Bible').write_bytes(damage((tmp_path/'Bible').read_bytes()))
    monkeypatch.setattr(tool, 'scores_file', lambda name: tmp_path/name)
    with pytest.raises(UserError, match='give --text FILE'): tool.variants(['Bible'])

@pytest.mark.slow('committed scores are read elsewhere, and test_state has small new ones')
def test_scores_of_the_main_model(tool, tmp_path, monkeypatch):
    monkeypatch.setattr(tool, 'scores_file', lambda name: tmp_path/f'{name}.safetensors')
    assert 'nearest distance 0.' in tool.variants(['main', '--device', 'cpu'])
    found, metadata = load_scores(tmp_path/'main.safetensors')
    assert metadata['length'] == '10' and int(metadata['n_strings']) > 3000
    for rule in 'thresholds', 'nearest', 'article':
        distance, same = found[f'{rule} distance'], found[f'{rule} same']
        assert distance.shape == same.shape == (200,) and same.dtype == torch.bool
        assert 0 < distance.mean() < found['unigram'].mean() < 1
    assert found['article matches'].shape == (6, 200) and found['output'].shape == (6,)

def test_variants_whose_scores_are_committed(tool):
    "belong to a variant that the tool makes, and fit what it says"
    folder = ROOT/'results'/'variants'
    names = {tool.slug(name): name for name in tool.VARIANTS}
    others = [path.name for path in folder.glob('*') if path.suffix != '.safetensors']
    assert others == ['article-recipe-counts.npz']
    for path in folder.glob('*.safetensors'):
        assert path.stem in names and path.stat().st_size < 4e6
        found, metadata = load_scores(path)
        assert metadata['length'] == str(tool.VARIANTS[names[path.stem]].length)
