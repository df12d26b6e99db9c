"The kernel for accelerators: on a GPU if there is one, and by Triton's interpreter if there is none."
import os, subprocess, sys
import pytest, torch

CASES = """
import sys, torch
from shakespeare_ffn.cosine_sims import Values, cosine, count_fused
device, generator = sys.argv[1], torch.Generator().manual_seed(0)
for n_queries, n_keys, n_embed, vocab, most in (1, 1, 1, 1, 2), (5, 20, 12, 4, 300), (130, 300, 384, 65, 50), (200, 700, 40, 90, 3000):
    keys = torch.randn(n_keys, n_embed, generator=generator).bfloat16()
    queries = keys[torch.randint(n_keys, (n_queries,), generator=generator)].clone()
    queries[0] = 0
    values = torch.randint(0, most, (n_keys, vocab), generator=generator)
    true = cosine(queries[:, None], keys[None])
    for threshold in true.flatten().sort().values[[0, n_queries*n_keys//2, -1]].clamp(-1, 1).tolist(): # similarities that occur
        passes = (true > threshold).double()
        counts = count_fused(queries, keys, Values(values), threshold, device)
        assert torch.equal(counts[:, :-1], (passes @ values.double()).long()), (n_queries, threshold)
        assert torch.equal(counts[:, -1], passes.sum(1).long())
"""

def run(device, **env):
    done = subprocess.run([sys.executable, '-c', CASES, device], env=os.environ | env, capture_output=True, text=True, encoding='utf-8')
    assert done.returncode == 0, done.stderr

@pytest.mark.skipif(not torch.cuda.is_available(), reason='no GPU here')
def test_kernel_on_a_gpu(): run('cuda')

def test_kernel_in_the_interpreter():
    pytest.importorskip('triton', reason='Triton is not installed (PyTorch brings it with CUDA)')
    run('cpu', TRITON_INTERPRET='1')
