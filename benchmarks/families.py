"""Keys of models of Hugging Face's library: one string after another, and along the tree of prefixes.

The models have random numbers: the time does not depend on them."""
import tempfile
from pathlib import Path
import torch
from shakespeare_ffn.core import UserError, by_scale
from shakespeare_ffn.corpus_keys import LibraryForward, PlainForward, plain_keys
from shakespeare_ffn.data import CharTokenizer, Corpus, load_corpus
from shakespeare_ffn.other_models import FileTokenizer, HuggingFaceModel
from common import in_turn, report
from other_models import TOKENS, write_tokenizer

KINDS = {"Pythia 70m's shape, 6 blocks of width 512": ('gpt_neox', dict(num_hidden_layers=6)),
         'Llama, 4 blocks of width 512': ('llama', dict(num_hidden_layers=4, num_key_value_heads=2))}

def random_model(kind: str, vocab_size: int, sizes: dict) -> HuggingFaceModel:
    try: from transformers import AutoConfig, AutoModelForCausalLM
    except ImportError as e: raise UserError("this needs pip install 'shakespeare_ffn[hf]'") from e
    config = AutoConfig.for_model(kind, vocab_size=vocab_size, hidden_size=512, intermediate_size=2048,
                                  num_attention_heads=8, max_position_embeddings=256, **sizes)
    inner = AutoModelForCausalLM.from_config(config, attn_implementation='sdpa')
    return HuggingFaceModel(inner.eval().requires_grad_(False), CharTokenizer('a'), {})

def some_chunks(corpus, length: int, chunk: int, n=5) -> list: # of tokens (chunk, length)
    "Neighbours in the sorted list of all strings, from everywhere in it."
    strings = corpus.substrings(length)
    starts = range(0, len(strings)-chunk, len(strings)//n)
    return [strings.tokens(strings.order[i:i+chunk]).astype('int64') for i in starts]

def rows_of(text: str, corpus, length: int) -> list:
    found = []
    for name, (kind, sizes) in KINDS.items():
        model = random_model(kind, len(corpus.tokenizer), sizes)
        plain, shared = PlainForward(model), LibraryForward(model)
        chunks = some_chunks(corpus, length, by_scale(shared.chunk, 100))
        assert torch.allclose(shared(chunks[0]), plain_keys(model, chunks[0]), atol=1e-4)
        seconds = in_turn(3, plain=lambda: [plain(x) for x in chunks],
                          shared=lambda: [shared(x) for x in chunks])
        rates = [sum(map(len, chunks))/t for t in seconds.values()]
        found.append((name, text, length, *(f'{rate:,.0f}' for rate in rates), f'{rates[1]/rates[0]:.2f}'))
    return found

def main():
    torch.manual_seed(0)
    rows = rows_of('characters', load_corpus(), 10)
    with tempfile.TemporaryDirectory() as folder:
        write_tokenizer(file := Path(folder)/'tokenizer.json')
        corpus = Corpus(load_corpus().text, FileTokenizer(file, TOKENS), 'f'*64)
        for length in 5, 10: rows += rows_of(f'{TOKENS:,} tokens', corpus, length)
    heads = ['model', 'text of', 'length', 'strings a second, one by one', 'along the tree', 'times as fast']
    report('families', "Keys of models of Hugging Face's library", heads, rows)

if __name__ == '__main__': main()
