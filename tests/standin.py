"""A stand-in for a GPU: tensors that say 'cuda:0', compute on the processor, and mix with no others.

It finds what a machine with a GPU would: operations between devices, generators of the wrong one,
numbers that NumPy cannot see."""
from contextlib import contextmanager
from unittest import mock
import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

HERE, aten = torch.device('cuda', 0), torch.ops.aten
# positions may come from the processor
INDEXING = aten.index.Tensor, aten.index_put.default, aten.index_put_.default, aten._index_put_impl_.default

class There(torch.Tensor):
    "A tensor that is on the stand-in; `.x` has its numbers."
    device, is_cuda, is_cpu, is_meta = property(lambda self: HERE), True, False, False
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, x):
        shape_only = torch.empty_strided(x.shape, x.stride(), dtype=x.dtype, device='meta')
        there = torch.Tensor._make_subclass(cls, shape_only, False, dispatch_device=True,
                                            device_for_backend_keys=HERE)
        there.x = x
        return there

    def __repr__(self): return f'There({self.x})'
    def tolist(self): return self.x.tolist()
    def __reduce_ex__(self, protocol): return self.x.__reduce_ex__(protocol) # stored as what it holds

    @classmethod
    def __torch_dispatch__(cls, f, types, args=(), kwargs=None): return dispatch(f, args, kwargs or {})

def here(x): return x.x if isinstance(x, There) else x

def check(f, args, kwargs):
    "A `RuntimeError` where a GPU would have one."
    given = [x for x in tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)]
    strays = [x for x in given if not isinstance(x, There)]
    if not strays or len(strays) == len(given) or f in (aten.copy_.default, aten._to_copy.default): return
    if f in INDEXING and isinstance(args[0], There):
        strays = [x for x in args[2:3] if not isinstance(x, There)]
    shapes = [tuple(x.shape) for x in strays if x.dim()]
    if shapes: raise RuntimeError(f'{f}: tensors on two devices, on the processor those of shapes {shapes}')

def dispatch(f, args, kwargs):
    if f is torch.ops.prim.device.default:
        return torch.device('meta') # what PyTorch's own code sees, and asks for
    check(f, args, kwargs)
    there = any(isinstance(x, There) for x in tree_leaves((args, kwargs)))
    if kwargs.get('device') is not None:
        there = torch.device(kwargs['device']).type in ('cuda', 'meta')
        kwargs = kwargs | dict(device='cpu')
    out = f(*tree_map(here, args), **tree_map(here, kwargs))
    # in-place operations return what they were given
    same = {id(x.x): x for x in tree_leaves((args, kwargs)) if isinstance(x, There)}
    return tree_map(lambda x: same.get(id(x), There(x)) if there and type(x) is torch.Tensor else x, out)

class Mode(TorchDispatchMode):
    def __torch_dispatch__(self, f, types, args=(), kwargs=None): return dispatch(f, args, kwargs or {})

class Generator(torch.Generator):
    "A generator that knows which device it was made for."
    def __new__(cls, device='cpu'):
        generator = super().__new__(cls, device='cpu')
        generator.there = torch.device(device).type == 'cuda'
        return generator
    device = property(lambda self: HERE if self.there else torch.device('cpu'))

def load(*args, map_location=None, load=torch.load, **kwargs):
    "`torch.load`, to the stand-in if that is asked for."
    found = load(*args, map_location='cpu', **kwargs)
    away = map_location is not None and torch.device(map_location).type == 'cuda'
    return tree_map(lambda x: There(x) if away and isinstance(x, torch.Tensor) else x, found)

class Generators(TorchFunctionMode):
    "Refuses a generator of another device."
    def __torch_function__(self, f, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if isinstance(generator := kwargs.get('generator'), Generator):
            there = any(isinstance(x, There) for x in args)
            there |= torch.device(kwargs.get('device') or 'cpu').type == 'cuda'
            if generator.there != there: raise RuntimeError(f'{f}: the generator is of another device')
        return f(*args, **kwargs)

class Current:
    "The GPU that is current within a `with`, as `torch.cuda.device` makes it."
    devices = []
    def __init__(self, device): self.asked = torch.device(device)
    def __enter__(self): self.devices.append(self.asked)
    def __exit__(self, *_): self.devices.pop()

@contextmanager
def gpu():
    "A machine with one GPU, as far as the code can see."
    answers = dict(is_available=lambda: True, device_count=lambda: 1, current_device=lambda: 0,
                   synchronize=lambda *_: None, is_current_stream_capturing=lambda: False,
                   get_device_name=lambda *_: 'stand-in', is_bf16_supported=lambda *_, **__: True,
                   _lazy_init=lambda: None, device=Current)
    # what optimisers ask: a PyTorch with CUDA would look for the driver, one without knows of no accelerator
    asked = dict(is_available=lambda: True, current_accelerator=lambda *_, **__: torch.device('cuda'),
                 current_stream=lambda *_: mock.Mock(is_capturing=lambda: False))
    before = torch.__future__.get_overwrite_module_params_on_conversion()
    torch.__future__.set_overwrite_module_params_on_conversion(True) # parameters are replaced, not filled
    try:
        with (mock.patch.multiple(torch.cuda, **answers), mock.patch.multiple(torch.accelerator, **asked),
              mock.patch.multiple(torch, Generator=Generator, load=load),
              Generators(), Mode()): yield
    finally: torch.__future__.set_overwrite_module_params_on_conversion(before)
