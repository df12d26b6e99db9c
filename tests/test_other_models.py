"""Models of other makes: they compute what their own library computes, and their files lead to answers."""
import copy
import gzip
import json
import pickle
import re
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from types import ModuleType
from urllib.parse import urlencode

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings, strategies as st
from shakespeare_ffn import corpus_keys, other_models
from shakespeare_ffn.core import UserError, show_char
from shakespeare_ffn.corpus_keys import LibraryForward, PlainForward, corpus_index, forward_of, plain_keys
from shakespeare_ffn.data import CharTokenizer
from shakespeare_ffn.explain import explain, main
from shakespeare_ffn.explore import application, _explore_parser
from shakespeare_ffn.hooks import ACTIVATIONS, PARTS, capture, hooked
from shakespeare_ffn.model import Config, Transformer, check_prompt, next_char_probs, snapshot
from shakespeare_ffn.nearest_strings import calibrate_nearest, nearest_approximation
from shakespeare_ffn.other_models import _GPT2_NAMES, _FAMILIES, FileTokenizer, HuggingFaceModel, corpus_for
from shakespeare_ffn.other_models import load_huggingface, load_nanogpt, open_model
from shakespeare_ffn.scores import examine
from shakespeare_ffn.similar_space import calibrate, tuned_approximation
from waitress import create_server

try: import transformers
except ImportError: transformers = None
needs_library = pytest.mark.skipif(transformers is None, reason="needs pip install 'shakespeare_ffn[hf]'")
SIZES = dict(n_layer=2, n_head=2, n_embd=32, vocab_size=65)

def some_tokens(vocab_size=65, n=3, length=40): return torch.randint(vocab_size, (n, length))

def largest_difference(a, b): return (a - b).abs().max()

@pytest.fixture(scope='module')
def text(tmp_path_factory, corpus):
    file = tmp_path_factory.mktemp('text')/'input.txt'
    file.write_text(corpus.text, encoding='utf-8', newline='')
    return file

@pytest.fixture(scope='module')
def tokenizer_file(tmp_path_factory, corpus):
    "A byte-level tokenizer of 600 tokens, as GPT-2's is made."
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    t = Tokenizer(models.BPE())
    t.pre_tokenizer, t.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=600, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
                                  show_progress=False)
    t.train_from_iterator([corpus.text], trainer)
    # what files in the wild ask for besides: none of it may change where tokens stand, or how many
    t.post_processor = processors.ByteLevel(trim_offsets=True)
    t.enable_truncation(512)
    t.enable_padding(length=64)
    file = tmp_path_factory.mktemp('tokenizer')/'tokenizer.json'
    t.save(str(file))
    return file

# Models with random numbers in every place.

def shaken(model):
    for name, p in model.named_parameters():
        if name.endswith('bias'): torch.nn.init.normal_(p, std=.1)
        elif p.dim() == 1: torch.nn.init.normal_(p, 1, .1)
    return model.eval().requires_grad_(False)

def gpt2(**options):
    return shaken(transformers.GPT2LMHeadModel(transformers.GPT2Config(n_positions=64, **SIZES | options)))

def other(kind, **options):
    "A small model of another family."
    sizes = dict(num_hidden_layers=2, num_attention_heads=4, hidden_size=32, intermediate_size=80,
                 vocab_size=65, max_position_embeddings=64, use_cache=False)
    if kind != 'gpt_neox': sizes |= dict(num_key_value_heads=2)
    config = transformers.AutoConfig.for_model(kind, **sizes | options)
    return shaken(transformers.AutoModelForCausalLM.from_config(config))

def save(model, folder, tokenizer_file):
    model.save_pretrained(folder)
    (folder/'tokenizer.json').write_bytes(tokenizer_file.read_bytes())
    return folder

def nanogpt_names(model):
    "The tensors of one of our models as nanoGPT calls them."
    theirs = {ours: name for name, ours in _GPT2_NAMES.items()}
    def name(ours):
        *path, kind = ours.split('.')
        where = f'h.{path[1]}.' if path[0] == 'blocks' else ''
        part = theirs['.'.join(path[2:] if where else path)]
        return ('' if part == 'lm_head' else 'transformer.') + f'{where}{part}.{kind}'
    return {name(ours): t for ours, t in model.state_dict().items()}

def our_gpt(bias=True, **changed):
    "A small model like nanoGPT's, with random numbers."
    sizes = dict(n_layer=2, n_head=2, n_embed=32, vocab_size=65, block_size=64) | changed
    return shaken(Transformer(Config(**sizes, dropout=0., nonlinearity='gelu', bias=bias, qkv_bias=bias,
                                     head_bias=False)))

def checkpoint(path, tensors, bias=True, instead={}, **sizes):
    "Write what nanoGPT would write of some tensors."
    args = SIZES | dict(block_size=64, bias=bias, dropout=.2) | sizes
    torch.save(dict(model=tensors, model_args=args, iter_num=5000, config=dict(dataset='shakespeare_char'),
                    best_val_loss=torch.tensor(1.5)) | instead, path)
    return path

# What is computed.

@needs_library
@given(st.booleans(), st.integers(1, 4), st.sampled_from([1, 2, 4]), st.integers(0, 2**30))
@settings(max_examples=20, deadline=None)
def test_a_nanogpt_checkpoint_computes_the_same(tmp_path_factory, text, bias, n_layer, n_head, seed):
    torch.manual_seed(seed)
    theirs = gpt2(n_layer=n_layer, n_head=n_head, activation_function='gelu')
    if not bias:
        for name, p in theirs.named_parameters(): p.mul_(not name.endswith('.bias'))
    turned = 'c_attn.weight', 'c_proj.weight', 'c_fc.weight' # they are stored the other way round
    tensors = {k: v.t().contiguous() if k.endswith(turned) else v for k, v in theirs.state_dict().items()
               if bias or not k.endswith('.bias')}
    path = checkpoint(tmp_path_factory.mktemp('gpt')/'ckpt.pt', tensors, bias, n_layer=n_layer, n_head=n_head)
    ours, tokens = load_nanogpt(path, text), some_tokens()
    assert largest_difference(ours(tokens), theirs(tokens).logits) < 1e-5

@needs_library
@pytest.mark.parametrize('nonlinearity', ['gelu_new', 'gelu', 'relu'])
def test_gpt2(tmp_path, tokenizer_file, nonlinearity):
    theirs = gpt2(vocab_size=600, activation_function=nonlinearity)
    ours, tokens = load_huggingface(save(theirs, tmp_path, tokenizer_file)), some_tokens(600)
    assert largest_difference(ours(tokens), theirs(tokens).logits) < 1e-5
    for part in 'sa', 'ffwd', 'hidden', 'output': # along the tree, and string by string
        one_by_one, along_the_tree = plain_keys(ours, tokens, part), forward_of(ours, 40, part=part)(tokens)
        assert largest_difference(one_by_one, along_the_tree) < 1e-4

def other_names(column) -> dict: # our names → those of a column of chapter 03a's table, for block 1
    nb = json.loads((Path(__file__).parents[1]/'nbs'/'03a_other_models.ipynb').read_text(encoding='utf-8'))
    [table] = [text for c in nb['cells'] if '| here |' in (text := ''.join(c['source']))]
    rows = [re.findall('`([^`]+)`', line) for line in table.splitlines() if line.startswith('| `')]
    return {row[0].replace('3', '1'): row[column].replace('3', '1') for row in rows}

def lens_weights(model) -> dict:
    "A model's tensors as TransformerLens calls them; there, queries, keys and values are apart, with biases."
    names = {'token_embedding': 'embed', 'position_embedding': 'pos_embed', 'sa.proj': 'attn.o',
             'ffwd.fc': 'mlp.in', 'ffwd.out': 'mlp.out', 'ln_f': 'ln_final', 'lm_head': 'unembed'}
    found = {}
    for name, t in model.state_dict().items():
        for ours, theirs in names.items(): name = name.replace(ours, theirs)
        for x, part in zip('qkv', t.chunk(3)) if 'qkv' in name else [('', t)]:
            found[name.replace('sa.qkv', f'attn.{x}')] = part
            if x: found[name.replace('sa.qkv.weight', f'attn.{x}.bias')] = torch.zeros(len(part))
    return found

def test_transformer_lens_finds_the_same_activations(model):
    TransformerBridge = pytest.importorskip('transformer_lens.model_bridge').TransformerBridge
    c = model.config
    sizes = dict(n_layers=c.n_layer, n_heads=c.n_head, d_model=c.n_embed, d_head=c.n_embed//c.n_head,
                 d_mlp=model.n_hidden, n_ctx=c.block_size, d_vocab=c.vocab_size)
    theirs = TransformerBridge.boot_native(sizes | dict(act_fn=c.nonlinearity, normalization_type='LN'))
    theirs.load_state_dict(lens_weights(model))
    tokens = some_tokens()
    logits, cache = theirs.run_with_cache(tokens)
    found, names = capture(model, tokens), other_names(1)
    assert largest_difference(logits, model(tokens)) < 1e-4
    assert len(names) == 5
    for ours, name in names.items(): assert largest_difference(cache[name], found[ours]) < 1e-4, name

@needs_library
def test_modules_of_gpt2_have_the_same_activations(tmp_path, tokenizer_file):
    "where nnsight finds them: `h[1].attn.output[0]` is the first of what the attention of a block gives"
    theirs, given, names = gpt2(vocab_size=600), {}, other_names(2)
    def keep(name, first): return lambda *args: given.update({name: args[-1][0] if first else args[-1]})
    if int(transformers.__version__.split('.')[0]) < 5: # as the page says
        names = {ours: re.sub(r'(h\[1\]\.output)$', r'\1[0]', name) for ours, name in names.items()}
    for ours, name in names.items():
        path, kind, first = re.fullmatch(r'(.+)\.(input|output)(\[0\])?', name).groups()
        module = theirs.get_submodule(path.replace('[', '.').replace(']', ''))
        if kind == 'input': module.register_forward_pre_hook(keep(ours, True))
        else: module.register_forward_hook(keep(ours, first))
    tokens = some_tokens(600)
    theirs(tokens)
    found = capture(load_huggingface(save(theirs, tmp_path, tokenizer_file)), tokens)
    assert len(names) == 5
    for ours in names: assert largest_difference(given[ours], found[ours]) < 1e-5, ours

@needs_library
def test_weights_in_several_files(tmp_path, tokenizer_file):
    theirs = gpt2(vocab_size=600)
    theirs.save_pretrained(tmp_path, max_shard_size='20KB')
    (tmp_path/'tokenizer.json').write_bytes(tokenizer_file.read_bytes())
    assert len(list(tmp_path.glob('*.safetensors'))) > 1
    tokens = some_tokens(600)
    assert largest_difference(load_huggingface(tmp_path)(tokens), theirs(tokens).logits) < 1e-5

KINDS = [(kind, {}) for kind in _FAMILIES] + [('gpt_neox', dict(use_parallel_residual=False))]

@needs_library
@pytest.mark.parametrize('kind, options', KINDS)
def test_other_families(tmp_path, tokenizer_file, kind, options):
    theirs = other(kind, vocab_size=600, **options)
    ours, tokens = load_huggingface(save(theirs, tmp_path, tokenizer_file)), some_tokens(600)
    assert isinstance(ours, HuggingFaceModel)
    assert torch.equal(ours(tokens), theirs(tokens).logits)
    found = capture(ours, tokens)
    for b in range(ours.n_layer): # the names mean what they mean elsewhere
        before, sa, ffwd, after = (found[f'blocks.{b}.{part}'] for part in PARTS)
        assert largest_difference(before + sa + ffwd, after) < 1e-5
        assert found[f'blocks.{b}.hidden'].shape[-1] == ours.n_hidden

@needs_library
@pytest.mark.parametrize('kind', _FAMILIES)
def test_hooks_reach_into_other_families(kind):
    model, tokens = HuggingFaceModel(other(kind), CharTokenizer('a'), {}).eval(), some_tokens()
    names = [f'blocks.1.{part}' for part in ('input', 'sa', 'ffwd', 'output')]
    before = model(tokens)
    for name in names:
        with hooked(model, {name: lambda x: x}): assert torch.equal(model(tokens), before)
        with hooked(model, {name: lambda x: 2*x}): assert not torch.allclose(model(tokens), before)
    assert torch.equal(model(tokens), before)

@needs_library
def test_a_snapshot_keeps_what_an_edit_changes():
    model, tokens = HuggingFaceModel(other('llama'), CharTokenizer('a'), {}).eval(), some_tokens()
    taken, before = snapshot(model), model(tokens)
    model.inner.model.layers[0].mlp.down_proj.weight.mul_(2)
    assert torch.equal(taken(tokens), before) and taken.hash != model.hash
    handle = model.inner.model.layers[0].register_forward_hook(print)
    with pytest.raises(UserError, match='is hooked'): snapshot(model)
    handle.remove()

@needs_library
def test_what_decides_the_answer_is_part_of_the_name(tmp_path, tokenizer_file):
    a, b = (HuggingFaceModel(other('llama', rms_norm_eps=x), CharTokenizer('a'), {}) for x in (1e-6, 1e-5))
    b.load_state_dict(a.state_dict())
    assert a.hash != b.hash
    a, b = (HuggingFaceModel(a.inner, CharTokenizer(chars), {}) for chars in ('ab', 'ba'))
    assert a.hash != b.hash
    for theirs in gpt2(vocab_size=600), other('llama', vocab_size=600): # wherever the folder is
        here, there = (save(theirs, tmp_path/theirs.config.model_type/name, tokenizer_file) for name in 'ab')
        assert load_huggingface(here).hash == load_huggingface(there).hash

@needs_library
@pytest.mark.parametrize('kind', _FAMILIES)
def test_weights_that_are_missing_are_not_made_up(tmp_path, tokenizer_file, kind):
    folder = save(other(kind, vocab_size=600), tmp_path/'model', tokenizer_file)
    config = json.loads((folder/'config.json').read_bytes())
    for n_layer in 1, 3:
        changed = config | dict(num_hidden_layers=n_layer)
        (folder/'config.json').write_text(json.dumps(changed), encoding='utf-8')
        with pytest.raises(UserError, match='cannot be loaded'): load_huggingface(folder)
    narrower = config | dict(intermediate_size=config['intermediate_size'] - 1) # said of which tensor
    (folder/'config.json').write_text(json.dumps(narrower), encoding='utf-8')
    with pytest.raises(UserError, match=r'mlp\..*of another shape'): load_huggingface(folder)

@needs_library
@pytest.mark.parametrize('kind', _FAMILIES)
def test_keys_need_no_head(kind):
    model, tokens = HuggingFaceModel(other(kind), CharTokenizer('a'), {}).eval(), some_tokens()
    assert torch.equal(PlainForward(model)(tokens), plain_keys(model, tokens))
    assert model.body()(tokens).shape[-1] == model.n_embed and model(tokens).shape[-1] == 65

def strings_of(seed, n=200, length=8):
    "Sorted strings of few letters: they share many prefixes."
    tokens = torch.randint(3, (n, length), generator=torch.Generator().manual_seed(seed))
    return tokens[sorted(range(n), key=lambda i: tokens[i].tolist())]

def all_close(a, b): return ((a - b).norm(dim=-1) < 1e-4*b.norm(dim=-1)).all()

POSITIONS = [{}, dict(rope_type='linear', factor=4.), dict(rope_type='dynamic', factor=4.),
             dict(rope_type='yarn', factor=4., original_max_position_embeddings=16)]

@needs_library
@pytest.mark.parametrize('kind, options', KINDS)
@given(st.data())
@settings(max_examples=10, deadline=None)
def test_other_families_share_prefixes(kind, options, data):
    torch.manual_seed(seed := data.draw(st.integers(0, 2**30)))
    options = options | dict(hidden_size=64, num_hidden_layers=data.draw(st.integers(1, 3)))
    if kind != 'gpt_neox': # heads may share keys and values
        options |= dict(head_dim=16, num_key_value_heads=data.draw(st.sampled_from([1, 2, 4])))
    if turned := data.draw(st.sampled_from(POSITIONS)): options |= dict(rope_scaling=dict(turned))
    model = HuggingFaceModel(other(kind, **options), CharTokenizer('a'), {}).eval()
    tokens, part = strings_of(seed), data.draw(st.sampled_from(ACTIVATIONS))
    forward = forward_of(model, 8, part=part)
    assert isinstance(forward, LibraryForward)
    expected, before = plain_keys(model, tokens, part), model(tokens)
    shuffled = torch.randperm(len(tokens))
    assert all_close(forward(tokens), expected)
    assert all_close(forward(tokens[shuffled]), expected[:, shuffled])
    assert torch.equal(model(tokens), before) # its own attention is left as it was

@needs_library
@pytest.mark.parametrize('kind', _FAMILIES)
def test_shared_prefixes_in_bfloat16(kind):
    model, tokens = HuggingFaceModel(other(kind), CharTokenizer('a'), {}).eval(), strings_of(0)
    exact, short = (forward_of(model, 8, arithmetic)(tokens) for arithmetic in ('float32', 'bfloat16'))
    assert short.dtype == torch.bfloat16 and next(model.parameters()).dtype == torch.float32
    difference = (short.float() - exact).norm(dim=-1)/exact.norm(dim=-1)
    assert 1e-4 < difference.mean() < .02

@needs_library
def test_shared_prefixes_need_no_second_copy_of_the_weights():
    model = HuggingFaceModel(other('llama'), CharTokenizer('a'), {}).eval()
    ours = {p.data_ptr() for p in model.parameters()}
    assert {p.data_ptr() for p in forward_of(model, 8).model.parameters()} <= ours
    assert not {p.data_ptr() for p in forward_of(model, 8, 'bfloat16').model.parameters()} & ours

@needs_library
@pytest.mark.parametrize('kind, options',
                         [('mistral', {}), ('qwen2', dict(use_sliding_window=True, max_window_layers=1))])
def test_strings_longer_than_a_window_are_taken_one_by_one(kind, options):
    theirs, tokens = other(kind, sliding_window=6, **options), strings_of(0)
    model = HuggingFaceModel(theirs, CharTokenizer('a'), {}).eval()
    for length in 6, 8:
        forward, some = forward_of(model, length), tokens[:, :length]
        assert type(forward) is (LibraryForward if length == 6 else PlainForward)
        assert all_close(forward(some), plain_keys(model, some))

@needs_library
def test_models_that_look_ahead_are_taken_string_by_string():
    model = HuggingFaceModel(other('llama', is_causal=False), CharTokenizer('a'), {}).eval()
    tokens = strings_of(0)
    assert all_close(forward_of(model, 8)(tokens), plain_keys(model, tokens))

@needs_library
@pytest.mark.parametrize('kind', _FAMILIES)
def test_a_forward_pass_costs_little_to_make(kind):
    "Each prompt has one of its own."
    class Words(CharTokenizer):
        def __deepcopy__(self, memo): raise AssertionError('all tokens are copied')
    model = HuggingFaceModel(other(kind), Words('a'), {}).eval()
    for arithmetic in 'float32', 'bfloat16':
        for make in LibraryForward, PlainForward: make(model, arithmetic)

@needs_library
@pytest.mark.parametrize('kind', _FAMILIES)
def test_the_weights_that_are_given_stay_as_they_are(kind):
    model = HuggingFaceModel(other(kind), CharTokenizer('a'), {}).eval().bfloat16()
    tokens = strings_of(0)
    expected = plain_keys(model, tokens)
    found = forward_of(model, 8)(tokens)
    assert all(p.dtype == torch.bfloat16 for p in model.parameters())
    assert found.dtype == torch.bfloat16 and (found - expected).norm() < .02*expected.norm()

@needs_library
@pytest.mark.parametrize('kind', _FAMILIES)
@pytest.mark.parametrize('make', [LibraryForward, PlainForward])
def test_positions_stay_exact_in_bfloat16(kind, make):
    "Far from the beginning, a rounded frequency would be another position."
    model = HuggingFaceModel(other(kind, hidden_size=128), CharTokenizer('a'), {}).eval()
    exact = {name: b.clone() for name, b in model.named_buffers()}
    short = dict(make(model, 'bfloat16').model.named_buffers())
    assert exact.keys() == short.keys() and exact
    for name, b in exact.items(): assert torch.equal(short[name], b), name

def check_bfloat16(model):
    "Keys in bfloat16 arithmetic are those in float32 but for rounding, and the model stays as it is."
    tokens = some_tokens(n=50, length=10)
    exact, short = (PlainForward(model, arithmetic)(tokens) for arithmetic in ('float32', 'bfloat16'))
    assert short.dtype == torch.bfloat16 and next(model.parameters()).dtype == torch.float32
    assert torch.equal(exact, plain_keys(model, tokens))
    difference = (short.float() - exact).norm(dim=-1)/exact.norm(dim=-1) # of each vector
    assert 1e-4 < difference.mean() < .02 and difference.max() < .1
    rounded = copy.deepcopy(model)
    for p in rounded.parameters(): p.data = p.data.bfloat16()
    assert torch.equal(PlainForward(model, 'bfloat16', 'sa')(tokens), plain_keys(rounded, tokens, 'sa'))

def test_keys_in_bfloat16(): check_bfloat16(our_gpt())

@needs_library
@pytest.mark.parametrize('kind', _FAMILIES)
def test_keys_of_other_families_in_bfloat16(kind):
    check_bfloat16(HuggingFaceModel(other(kind), CharTokenizer('a'), {}).eval())

def interrupt_after(monkeypatch, n): # chunks
    "Whatever builds an index is interrupted; gives the numbers of the chunks that it computes."
    computed, compute = [], corpus_keys._Build.compute_chunk
    def go(build, i):
        if len(computed) == n: raise KeyboardInterrupt
        computed.append(i)
        return compute(build, i)
    monkeypatch.setattr(corpus_keys._Build, 'compute_chunk', go)
    return computed

def check_resumed(model, text, new_cache, monkeypatch):
    "An index whose build was interrupted goes on where it was, and is that of a build at one go."
    corpus = corpus_for(model, text)
    whole = corpus_index(corpus, model, 4, quiet=True)
    expected, n_chunks = whole.keys.clone(), -(-len(whole)//512)
    whole.path.rename(new_cache/'whole')
    monkeypatch.setattr(corpus_keys, '_SAVE_EVERY', 1)
    monkeypatch.setattr(corpus_keys, '_next_note', lambda begun, ended: 0) # after each chunk
    with monkeypatch.context() as patch:
        first = interrupt_after(patch, 3)
        with pytest.raises(KeyboardInterrupt): corpus_index(corpus, model, 4, quiet=True)
    with monkeypatch.context() as patch:
        then = interrupt_after(patch, -1)
        found = corpus_index(corpus_for(model, text), model, 4, quiet=True)
    assert n_chunks > 4 and (first, then) == ([0, 1, 2], [*range(3, n_chunks)])
    assert torch.equal(found.keys, expected)

def test_an_interrupted_index_of_a_checkpoint(tmp_path, new_cache, small_text, corpus, monkeypatch):
    (tmp_path/'meta.pkl').write_bytes(pickle.dumps(dict(itos=dict(enumerate(corpus.tokenizer.chars)))))
    path = checkpoint(tmp_path/'ckpt.pt', nanogpt_names(our_gpt()))
    check_resumed(open_model(path), small_text, new_cache, monkeypatch)

@needs_library
def test_an_interrupted_index_of_a_folder(tmp_path, new_cache, small_text, tokenizer_file, monkeypatch):
    folder = save(other('llama', vocab_size=600), tmp_path/'model', tokenizer_file)
    check_resumed(open_model(folder), small_text, new_cache, monkeypatch)

# Tokens.

@needs_library
@given(st.text(max_size=60))
@settings(max_examples=100, deadline=None)
def test_any_text_is_split_where_its_tokens_begin(tokenizer_file, text):
    tokenizer = FileTokenizer(tokenizer_file)
    tokens, begins = tokenizer.split(text)
    assert len(begins) == len(tokens) + 1 and begins[-1] == len(text) and (begins[1:] >= begins[:-1]).all()
    assert tokens.tolist() == tokenizer.encode(text).tolist()
    for t, begin, end in zip(tokens, begins[:-1], begins[1:]): # a token that is whole characters is these
        if re.fullmatch(r'[ -~\n]+', text[begin:end]): assert tokenizer.names[t] == text[begin:end]

@needs_library
def test_what_no_token_stands_for_is_said(tmp_path):
    from tokenizers import Tokenizer, models, pre_tokenizers
    t = Tokenizer(models.WordLevel({'to': 0, 'be': 1, '?': 2, 'far': 4}, unk_token='?'))
    t.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    t.save(str(tmp_path/'tokenizer.json'))
    tokenizer = FileTokenizer(tmp_path/'tokenizer.json')
    assert len(tokenizer) == 5 and tokenizer.encode('to  be').tolist() == [0, 1]
    with pytest.raises(UserError, match="no token for 'o', in line 1, column 7"): tokenizer.split('to be or')
    with pytest.raises(UserError, match='do not fit'): FileTokenizer(tmp_path/'tokenizer.json', 4)
    model = HuggingFaceModel(other('llama'), tokenizer, {})
    with pytest.raises(UserError, match='no token'): check_prompt('   ', model)

@needs_library
def test_names_are_distinct(tokenizer_file):
    tokenizer = FileTokenizer(tokenizer_file, 610)
    assert len(tokenizer) == len(set(tokenizer.names)) == len(tokenizer.stoi) == 610
    with pytest.raises(UserError, match='do not fit'): FileTokenizer(tokenizer_file, 10)

# From files to an answer.

def answers(capsys, tmp_path, name, text, prompt='And only l'):
    "Tune a little, explain; the explanation as data and as text."
    model, options = open_model(name), ['--model', str(name), '--text', str(text)]
    calibrate_nearest(corpus_for(model, text), model, n=40, betas=(10, 20), progress=False)
    capsys.readouterr()
    main([prompt, *options, '--json', '--figure', str(tmp_path/'figure.svg')])
    as_json, messages = capsys.readouterr()
    main([prompt, *options])
    return json.loads(as_json), capsys.readouterr().out, messages

@pytest.fixture
def small_text(tmp_path, corpus):
    file = tmp_path/'few pages.txt'
    file.write_text(corpus.text[:20_000], encoding='utf-8', newline='')
    return file

def test_from_a_nanogpt_checkpoint_to_an_answer(tmp_path, new_cache, small_text, corpus, capsys):
    folder = tmp_path/'out-shakespeare-char'
    folder.mkdir()
    (data := tmp_path/'data'/'shakespeare_char').mkdir(parents=True)
    (data/'meta.pkl').write_bytes(pickle.dumps(dict(itos=dict(enumerate(corpus.tokenizer.chars)))))
    path = checkpoint(folder/'ckpt.pt', nanogpt_names(our_gpt()))
    explanation, shown, messages = answers(capsys, tmp_path, path, small_text)
    assert explanation['length'] == 10 and 'tokens' not in explanation
    assert 'which text it was trained on' in messages
    assert shown.startswith("What comes after 'And only l'?") and len(explanation['blocks']) > 0

@needs_library
def test_from_a_checkpoint_with_tokens_to_an_answer(tmp_path, new_cache, small_text, tokenizer_file, capsys):
    path = checkpoint(tmp_path/'ckpt.pt', nanogpt_names(our_gpt(vocab_size=600)), vocab_size=600)
    message = fails(capsys, '--model', path, '--text', small_text)
    assert 'the tokenizer.json of its text (that of GPT-2' in message
    (tmp_path/'tokenizer.json').write_bytes(tokenizer_file.read_bytes())
    explanation, *_ = answers(capsys, tmp_path, path, small_text)
    tokenizer = FileTokenizer(tokenizer_file, 600)
    assert explanation['tokens'] == [tokenizer.names[t] for t in tokenizer.encode('And only l')]

@needs_library
@pytest.mark.parametrize('kind', ['gpt2', 'llama'])
def test_from_a_folder_to_an_answer(tmp_path, new_cache, small_text, tokenizer_file, capsys, kind):
    theirs = gpt2(vocab_size=600) if kind == 'gpt2' else other(kind, vocab_size=600)
    folder = save(theirs, tmp_path/'model', tokenizer_file)
    explanation, shown, _ = answers(capsys, tmp_path, folder, small_text)
    model = open_model(folder)
    corpus = corpus_for(model, small_text)
    assert explanation['tokens'] == [model.tokenizer.names[t] for t in model.tokenizer.encode('And only l')]
    assert 'In tokens: ' + '│'.join(explanation['tokens']) in shown
    index = corpus_index(corpus, model, len(explanation['tokens']), quiet=True)
    assert len(index) > 1000
    for b in explanation['blocks']: # a string stands where it is said to, and what follows is said to follow
        for s in b['similar']:
            assert all(corpus.text.startswith(s['string'], at) for at in s['positions'])
            after = [corpus.text[at + len(s['string']):] for at in s['positions']]
            assert all(any(rest.startswith(token) for rest in after) for token in s['next'])

# In the page.

NODE = shutil.which('node')
SCRIPT = """
import { readFileSync } from 'node:fs'
import { gunzipSync } from 'node:zlib'
const [folder, names] = process.argv.slice(2), data = name => readFileSync(`${folder}/data/${name}`)
const { decode, inTokens } = await import(`${folder}/read.js`)
const { predict } = await import(`${folder}/rule.js`)
const contents = JSON.parse(data('contents.json')), whole = gunzipSync(data('text.bin')).toString()
const text = inTokens(whole, contents, contents.split ? gunzipSync(data('tokens.bin')) : null)
const stringOf = s => whole.slice(text.begin(s.place), text.begin(s.place + contents.length))
console.log(JSON.stringify(JSON.parse(names).map(name => {
  const prompt = decode(gunzipSync(data(name)), contents, text), found = { model: [...prompt.model] }
  for (const rule of ['nearest', 'tuned']) {
    const { says, blocks } = predict(prompt, contents, contents[rule], false)
    const strings = blocks.map(b => b.list.slice(0, 5).map(s => [stringOf(s), s.cosine, s.next]))
    found[rule] = { says: [...says], n: blocks.map(b => b.n), strings }
  }
  return { ...found, tokens: prompt.tokens.map(t => contents.signs[t]) }
})))
"""

def in_node(folder, app, prompts):
    "What the page computes of some prompts, from what a server sends."
    def get(path, **query):
        asked, statuses = dict(HTTP_HOST='localhost', PATH_INFO=path, QUERY_STRING=urlencode(query)), []
        def start(status, headers): statuses.append(status)
        content = b''.join(app(asked | dict(REQUEST_METHOD='GET'), start))
        assert statuses == ['200 OK'], content
        return content
    (folder/'data').mkdir(parents=True)
    for path in app.files.keys() - {'/'}: (folder/path[1:]).write_bytes(get(path))
    for i, p in enumerate(prompts): (folder/'data'/f'{i}.bin').write_bytes(get('/data/ask.bin', prompt=p))
    (folder/'package.json').write_text('{"type": "module"}', encoding='utf-8')
    (folder/'ask.mjs').write_text(SCRIPT, encoding='utf-8')
    names = json.dumps([f'{i}.bin' for i in range(len(prompts))])
    done = subprocess.run([NODE, folder/'ask.mjs', folder, names], capture_output=True, text=True,
                          encoding='utf-8')
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout), [gzip.decompress(get('/data/says.bin', prompt=p)) for p in prompts]

def check_strings(block, n, strings, names):
    "A block lists in the page what it lists in Python."
    assert n == block.n_similar
    for (string, cosine, following), s in zip(strings, block.similar):
        assert abs(cosine - s.cosine) < 1e-5
        if string == s.string: assert {names[t]: count for t, count in following} == s.next
        else: assert len({round(x.cosine, 4) for x in block.similar}) < 5 # ties may change places

def tune(model, corpus):
    calibrate(corpus, model, n=40, progress=False)
    calibrate_nearest(corpus, model, n=40, k=100, betas=(10, 20), progress=False)

def check_page(tmp_path, name, text, prompts):
    "Every number of the page is that of `explain`."
    if not NODE: pytest.skip('needs Node.js, to run what a browser would run')
    model = open_model(name, text=text)
    corpus = corpus_for(model, text)
    tune(model, corpus)
    app = application(_explore_parser().parse_args(['--model', str(name), '--text', str(text)]))
    contents = json.loads(app.files['/data/contents.json'])
    assert contents['article'] is None and '/data/model.safetensors' not in app.files
    prompts = [*prompts, *(p['text'] for p in contents['prompts'])]
    found, typed = in_node(tmp_path/'page', app, prompts)
    for prompt, there, numbers in zip(prompts, found, typed, strict=True):
        tokens = model.tokenizer.encode(prompt)
        [probs] = next_char_probs(model, tokens[None, -10:])
        assert largest_difference(torch.tensor(there['model']), probs) < 1e-6
        assert numbers[0] == len(tokens)
        for rule, approximation in dict(nearest=nearest_approximation, tuned=tuned_approximation).items():
            e = explain(prompt, corpus, model, approximation(model), 10, 5, exclude_self=True, quiet=True)
            says = dict(zip(model.tokenizer.names, there[rule]['says'], strict=True))
            assert max(abs(says[t] - p) for t, p in e.approximation.items()) < 1e-4 # of many, the likeliest
            for block, *each in zip(e.blocks, there[rule]['n'], there[rule]['strings'], strict=True):
                check_strings(block, *each, model.tokenizer.names)
    return contents, found

ODD = 'He said: naïve café, 你好 <b>&amp;</b>\tand 😀😀 went.\n'

@pytest.fixture
def odd_text(tmp_path, corpus):
    "A text with characters of several bytes, of two of JavaScript's, and of HTML."
    file = tmp_path/'odd.txt'
    text = ''.join(corpus.text[i:i+400] + ODD for i in range(0, 12_000, 400))
    file.write_text(text, encoding='utf-8', newline='')
    return file

def test_a_checkpoint_in_the_page(tmp_path, new_cache, odd_text):
    chars = ''.join(sorted(set(odd_text.read_text(encoding='utf-8'))))
    model = our_gpt(vocab_size=len(chars))
    (tmp_path/'meta.pkl').write_bytes(pickle.dumps(dict(itos=dict(enumerate(chars)))))
    path = checkpoint(tmp_path/'ckpt.pt', nanogpt_names(model), vocab_size=len(chars))
    contents, _ = check_page(tmp_path, path, odd_text, ['😀😀 went.\nHe', 'naïve café, '])
    assert contents['split'] and contents['chars'] == list(chars) and '␣' in contents['signs']

@needs_library
@pytest.mark.parametrize('kind', ['gpt2', 'llama'])
def test_a_folder_in_the_page(tmp_path, new_cache, odd_text, tokenizer_file, kind):
    theirs = gpt2(vocab_size=600) if kind == 'gpt2' else other(kind, vocab_size=600)
    folder = save(theirs, tmp_path/'model', tokenizer_file)
    prompts = ['you may not know the 你', 'and the <b>&amp;</b>\tand 😀']
    contents, found = check_page(tmp_path, folder, odd_text, prompts)
    assert found[0]['tokens'][-4:] == ['␣', '<0xE4>', '<0xBD>', '<0xA0>'] and contents['chars'] is None

@pytest.fixture
def page(browser):
    "A page of a browser, and the addresses that it asks for; at the end it must not have complained."
    complaints, requests = [], []
    page = browser.new_page(viewport=dict(width=390, height=844))
    page.on('pageerror', lambda e: complaints.append(str(e)))
    page.on('request', lambda r: requests.append(r.url))
    yield page, requests
    page.close()
    assert complaints == []

def serve(app) -> str: # its address
    server = create_server(app, host='127.0.0.1', port=0)
    threading.Thread(target=server.run, daemon=True).start()
    return f'http://127.0.0.1:{server.effective_port}/'

@needs_library
def test_tokens_in_a_browser(tmp_path, new_cache, odd_text, tokenizer_file, page):
    "They are shown with their boundaries, and none of them is HTML; the server says what comes next."
    folder = save(gpt2(vocab_size=600), tmp_path/'model', tokenizer_file)
    model = open_model(folder)
    tune(model, corpus_for(model, odd_text))
    app = application(_explore_parser().parse_args(['--model', str(folder), '--text', str(odd_text)]))
    page, requests = page
    page.goto(serve(app))
    page.wait_for_selector('#main:not([aria-busy])')
    assert 'odd.txt' in page.text_content('#about-model')
    assert not page.locator('[data-rule=article]').is_visible()
    prompt = 'and the <b>&amp;</b>\tand 😀'
    page.fill('#search', prompt)
    page.press('#search', 'Enter')
    shown = [show_char(model.tokenizer.names[t]) for t in model.tokenizer.encode(prompt)[-10:]]
    tokens = '[...document.querySelectorAll("#prompt .token")].map(t => t.textContent)'
    page.wait_for_function(f'expected => String({tokens}) === String(expected)', arg=shown)
    assert not page.locator('#prompt b').count()
    assert page.locator('#list .token').count() > 100
    page.fill('#typed', prompt)
    p = next_char_probs(model, model.tokenizer.encode(prompt)[None])[0]
    likeliest = [show_char(model.tokenizer.names[t]) for t in p.topk(8).indices]
    shown_tokens = '[...document.querySelectorAll("#typed-bars th")].map(th => th.textContent)'
    page.wait_for_function(f'expected => String({shown_tokens}) === String(expected)', arg=likeliest)
    assert not page.locator('#write').is_visible()
    page.fill('#search', 'short')
    page.press('#search', 'Enter')
    page.wait_for_function('document.querySelector("#about").textContent.includes("tokens; give 10")')
    assert page.evaluate('document.documentElement.scrollWidth') <= 390
    assert not any(url.endswith('.safetensors') for url in requests)

def test_a_model_that_is_not_tuned(tmp_path, new_cache, small_text, corpus, capsys):
    (tmp_path/'meta.pkl').write_bytes(pickle.dumps(dict(itos=dict(enumerate(corpus.tokenizer.chars)))))
    path = checkpoint(tmp_path/'ckpt.pt', nanogpt_names(our_gpt()))
    with pytest.raises(UserError, match='run ffn_calibrate'):
        application(_explore_parser().parse_args(['--model', str(path), '--text', str(small_text)]))
    assert not list(new_cache.glob('keys/*')) # said before an index is built

# What is refused.

def refusal(capsys, *options):
    "What is said of options that cannot be followed."
    capsys.readouterr()
    with pytest.raises(SystemExit) as e: main(['And only l', *map(str, options)])
    out, err = capsys.readouterr()
    assert e.value.code == 2 and out == ''
    return err

def fails(capsys, *options):
    "The same in one line."
    err = refusal(capsys, *options)
    assert err.count('\n') == 1, err
    return err

def test_a_file_is_named_in_signs(tmp_path, text, corpus, capsys):
    "when it is said that a checkpoint's tokens are the text's characters"
    path = checkpoint(tmp_path/'x\x1b[31m\u202e.pt', nanogpt_names(our_gpt()), vocab_size=65)
    open_model(path)
    err = capsys.readouterr().err
    assert 'x␛[31m⟨U+202E⟩.pt has no meta.pkl' in err and not {'\x1b', '\u202e'} & set(err)

@needs_library
@pytest.mark.parametrize('vocab_size, said', [(600, False), (6000, True)])
def test_a_tokenizer_with_few_tokens(tokenizer_file, capsys, vocab_size, said):
    FileTokenizer(tokenizer_file, vocab_size)
    assert (f'tokens for the {vocab_size:,} of the model' in capsys.readouterr().err) == said

@needs_library
def test_wrong_folders(tmp_path, tokenizer_file, text, capsys, monkeypatch):
    monkeypatch.setenv('HF_HUB_OFFLINE', '1')
    assert 'could not be fetched' in fails(capsys, '--model', 'nobody/nothing', '--text', text)
    folder = save(gpt2(vocab_size=600), tmp_path/'model', tokenizer_file)
    def broken(name, content, message):
        kept = (folder/name).read_bytes()
        (folder/name).unlink()
        if content is not None: (folder/name).write_bytes(content)
        assert message in fails(capsys, '--model', folder, '--text', text)
        (folder/name).write_bytes(kept)
    broken('config.json', None, 'cannot read')
    broken('config.json', b'{', 'is damaged')
    broken('config.json', b'{"model_type": "bert"}', "'bert'; known here are gpt2, gpt_neox, llama")
    config = json.loads((folder/'config.json').read_bytes())
    for change, message in ((dict(scale_attn_by_inverse_layer_idx=True), 'scale_attn_by_inverse_layer_idx'),
                            (dict(n_inner=7), 'n_inner = 7'), (dict(n_head=5), '5 heads'),
                            (dict(n_layer=3), 'does not hold the weights'),
                            (dict(vocab_size=500), 'do not fit')):
        broken('config.json', json.dumps(config | change).encode(), message)
    broken('model.safetensors', None, 'has no weights as model.safetensors')
    broken('model.safetensors', b'x'*100, 'or damaged')
    assert 'give ' + str(folder) in fails(capsys, '--model', folder/'model.safetensors', '--text', text)
    for name in '/no/such/folder', 'no-such-folder', '../no/such':
        assert 'no file or folder' in fails(capsys, '--model', name, '--text', text)
    assert "--model: '' names no file" in fails(capsys, '--model', '', '--text', text)
    monkeypatch.chdir(folder) # which is not what an empty text names
    with pytest.raises(UserError, match="no file or folder ''"): open_model('')
    broken('tokenizer.json', b'{}', 'is not a readable tokenizer')

def test_wrong_checkpoints(tmp_path, text, corpus, capsys):
    path, tensors = tmp_path/'ckpt.pt', nanogpt_names(our_gpt())
    def refused(message, **instead):
        checkpoint(path, tensors, instead=instead)
        assert message in fails(capsys, '--model', path, '--text', text)
    refused('nothing else is read', optimizer=Evil())
    for damaged in (b'junk', bytes(100), b'\x80\x02' + bytes(9)):
        path.write_bytes(damaged)
        assert 'nothing else is read' in fails(capsys, '--model', path, '--text', text)
    refused("an architecture that is not known here (it has a tensor 'encoder')",
            model=dict(encoder=torch.ones(2)))
    refused("an architecture that is not known here (it lacks 'vocab_size')", model_args=dict(n_layer=2))
    for odd in (dict(n_layer=float('inf')), dict(block_size=10**20), dict(n_head=3), dict(n_embd='wide')):
        refused('an architecture that is not known', model_args=SIZES | dict(block_size=64) | odd)
    for odd in (torch.eye(2).to_sparse(), torch.ones(2, dtype=torch.int), torch.ones(2, dtype=torch.cfloat)):
        refused('has no weights', model={'transformer.h.0.ln_1.weight': odd})
    refused('an architecture that is not known', model={'transformer.h.0': torch.ones(2)})
    refused('an architecture that is not known', config=[1])
    (tmp_path/'short.txt').write_text(corpus.text[:50], encoding='utf-8')
    checkpoint(path, tensors)
    assert 'characters for 65 tokens' in fails(capsys, '--model', path, '--text', tmp_path/'short.txt')
    (tmp_path/'meta.pkl').write_bytes(pickle.dumps(dict(itos=dict(enumerate(corpus.tokenizer.chars)))))
    assert 'fewer than' in fails(capsys, '--model', path, '--text', tmp_path/'short.txt')
    (tmp_path/'foreign.txt').write_text('naïve '*100, encoding='utf-8')
    message = fails(capsys, '--model', path, '--text', tmp_path/'foreign.txt')
    assert "'ï' in line 1, column 3" in message and 'is not in the vocabulary' in message
    (tmp_path/'windows.txt').write_text(corpus.text[:500], encoding='utf-8', newline='\r\n')
    message = refusal(capsys, '--model', path, '--text', tmp_path/'windows.txt')
    assert 'line 1, column 15' in message and 'save it with line ends of one character' in message

class Evil:
    def __reduce__(self): return (print, ('this runs',))

# Models that have learned something.

def train(parameters, logits, tokens, n_steps=200):
    "Learn to predict the next token, for a minute or less."
    optimiser = torch.optim.AdamW([p.requires_grad_(True) for p in parameters], lr=3e-3)
    for _ in range(n_steps):
        windows = torch.stack([tokens[i:i+65] for i in torch.randint(len(tokens)-65, (16,))])
        loss = F.cross_entropy(logits(windows[:, :-1]).flatten(0, 1), windows[:, 1:].flatten())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()

def check_classes(model, text):
    "What follows similar strings is nearer to what a model predicts than how often tokens occur."
    corpus = corpus_for(model, text)
    index = corpus_index(corpus, model, 4, quiet=True)
    rule = calibrate_nearest(corpus, model, index, n=200, betas=(5, 10, 20, 40), progress=False)
    found = examine(corpus, index, {'nearest': rule}, 150)
    assert found['nearest distance'].mean() < .75*found['unigram'].mean()

@pytest.mark.slow(reason='a minute; the same with random numbers stays')
@needs_library
@pytest.mark.parametrize('kind', ['gpt2', 'gpt_neox', 'llama'])
def test_classes_of_a_trained_folder(tmp_path, new_cache, text, tokenizer_file, kind):
    torch.manual_seed(0)
    model = gpt2(vocab_size=600) if kind == 'gpt2' else other(kind, vocab_size=600)
    tokens = torch.from_numpy(corpus_tokens(FileTokenizer(tokenizer_file), text))
    train(model.parameters(), lambda x: model(input_ids=x).logits, tokens)
    check_classes(load_huggingface(save(model, tmp_path/'model', tokenizer_file)), text)

@pytest.mark.slow(reason='a minute; the same with random numbers stays')
def test_classes_of_a_trained_checkpoint(tmp_path, new_cache, text, corpus):
    torch.manual_seed(0)
    model, shuffled = our_gpt(), corpus.tokenizer.chars[::-1] # an order that is not the text's own
    train(model.parameters(), model, torch.from_numpy(corpus_tokens(CharTokenizer(shuffled), text)))
    (tmp_path/'meta.pkl').write_bytes(pickle.dumps(dict(itos=dict(enumerate(shuffled)))))
    check_classes(load_nanogpt(checkpoint(tmp_path/'ckpt.pt', nanogpt_names(model))), text)

def corpus_tokens(tokenizer, text): return tokenizer.split(text.read_text(encoding='utf-8')).ids.astype(int)

def test_a_sound_vocabulary_is_not_blamed_for_lack_of_memory(tmp_path, monkeypatch):
    (tmp_path/'meta.pkl').write_bytes(pickle.dumps(dict(itos={0: 'a'})))
    def fail(self): raise MemoryError
    monkeypatch.setattr(other_models._PlainUnpickler, 'load', fail)
    with pytest.raises(MemoryError): other_models._read_meta(tmp_path/'meta.pkl')

def test_a_setting_of_the_library_that_is_none(monkeypatch):
    "It reads its own variables when it is imported."
    class Broken(ModuleType):
        def __getattr__(self, name): raise ValueError("invalid literal for int() with base 10: '1m'")
    monkeypatch.setitem(sys.modules, 'huggingface_hub', Broken('huggingface_hub'))
    with pytest.raises(UserError, match="'1m'.*; correct its variable HF_"): load_huggingface('owner/name')
