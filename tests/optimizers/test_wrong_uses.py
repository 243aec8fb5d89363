"""What a user types wrongly, and the whole message: one sentence with the value, the reason and the fix.

The text is what a reader sees, so that it is compared word for word. "it" stands for an optimizer of "model".
"""

import gc
import warnings

import pytest
import torch
from torch import nn
from torch.nn import Parameter

import aida
from aida import monitor
from helpers.backends import every_backend
from helpers.members import train

SGD = "torch.optim.SGD(model.parameters())"
KNOWN = "AdaBelief, Adagrad, Adam, AdamW, Adamax, RAdam, RMSprop"
MOMENTS = (
    "load it into that optimizer, or load the model alone and let a new optimizer begin with empty moments"
)

CONSTRUCTOR = [
    ("aida.Aida(model)", TypeError,
     "Aida takes parameters, not the model itself, a Linear: give model.parameters()"),
    ("aida.Aida(model.parameters)", TypeError,
     "Aida takes parameters, not a function, a method: give model.parameters()"),
    ("aida.Aida(model.parameters(), lr='1e-3')", ValueError,
     "Invalid learning rate: '1e-3'; it must be a finite number of 0 or more, such as 1e-3"),
    ("aida.Aida(model.parameters(), betas='0.9,0.99')", ValueError,
     "Invalid betas: '0.9,0.99'; it must be two numbers in [0, 1), such as (0.9, 0.999)"),
    ("aida.Aida(model.parameters(), betas=(0.9, 1))", ValueError,
     "Invalid beta parameter at index 1: 1; it must be in [0, 1), as 0.9 is"),
    ("aida.Aida(model.parameters(), eps=0)", ValueError,
     "Invalid eps value: 0; it must be a finite number above 0, such as 1e-8, since it bounds the stepsize "
     "by sqrt((1-beta2)/eps)"),
    ("aida.Aida(model.parameters(), epsilon=1e-8)", TypeError,
     "Aida has no argument 'epsilon': did you mean 'eps'?"),
    ("aida.Aida(model.parameters(), weight_decouple=True)", TypeError,
     "Aida has no argument 'weight_decouple': did you mean 'decoupled_weight_decay'?"),
    ("aida.Aida(model.parameters(), amsgrad=True)", TypeError,
     "Aida has no argument 'amsgrad': nothing in this family does what it does; leave it out"),
    ("aida.AdamPlus(model.parameters(), K=2)", TypeError,
     "AdamPlus has no argument 'K': only other members of the family have it; leave it out"),
    ("aida.Aida(model.parameters(), K=1.5)", ValueError,
     "Invalid K: 1.5; it must be an integer from 0 to 64, such as 2"),
    ("aida.LAdam(model.parameters(), layerwise='mean')", ValueError,
     "Invalid layerwise: 'mean'; it must be 'pre' or 'post'"),
    ("aida.Aida(model.parameters(), state_dtype='float16')", ValueError,
     "Invalid state_dtype: 'float16'; it must be None, 'float32', 'bfloat16' or 'int8' (float16 cannot hold "
     "v, which squares gradients)"),
    ("aida.Aida(model.parameters(), fused=True, foreach=True)", RuntimeError,
     "`fused` and `foreach` cannot be `True` together; leave one of them None"),
    ("aida.Aida([{'params': model.parameters(), 'weight_deacy': 0.1}])", UserWarning,
     "parameter group 0 of Aida keeps the key 'weight_deacy' and does not use it: did you mean "
     "'weight_decay'?"),
]  # fmt: skip

BY_NAME = [
    ("aida.create_optimizer(aida.Aida, model)", TypeError,
     "create_optimizer takes a name, such as 'aida', not Aida: a class is called itself, as "
     "aida.Aida(model.parameters())"),
    ("aida.create_optimizer('aide', model)", ValueError, "unknown optimizer 'aide': did you mean 'aida'?"),
    ("aida.create_optimizer('aidaw', model, decoupled_weight_decay=False)", ValueError,
     "'aidaw' has decoupled weight decay, not decoupled_weight_decay=False: for coupled decay ask for "
     "'aida'"),
    ("aida.create_optimizer('aida', model.parameters(), no_decay='*.bias')", ValueError,
     "no_decay=('*.bias',) needs parameter names: give the model itself or model.named_parameters()"),
    ("aida.presets['vits']", KeyError,
     "\"no preset 'vits': did you mean 'vit'? There are 'cifar', 'transformer', 'lstm-1', 'lstm-2', "
     "'lstm-3', 'wgan-gp', 'imagenet', 'llm', 'vit', 'cnn', 'lstm', 'rl'\""),
    ("aida.eps_for_cap(-1)", ValueError,
     "Invalid cap: -1; it must be a finite number above 0, such as 316.0, since it is the largest stepsize"),
    ("aida.KScheduler(aida.AdamPlus(model.parameters()), {100: 1})", TypeError,
     "KScheduler needs an optimizer with K, such as Aida, not AdamPlus"),
    ("aida.KScheduler(it, 2)", TypeError, "K is a mapping {step: K} or a function of the step, not 2"),
]  # fmt: skip

STEP_AND_LOAD = [
    ("stepped(aida.Aida(embedding.parameters()))", RuntimeError,
     "Aida does not support sparse gradients or parameters (parameter 0 of its group is torch.strided, its "
     "gradient torch.sparse_coo): nothing was stepped; build the layer with sparse=False, or give its "
     "parameters to torch.optim.SparseAdam"),
    ("(aida.release_gradients(it, model), it.step())", RuntimeError,
     "release_gradients steps every layer in backward: remove this call of optimizer.step(), or remove() the "
     "handle first"),
    ("it.load_state_dict('optimizer.pt')", TypeError,
     "Aida.load_state_dict takes the dict that Aida.state_dict() gave, not 'optimizer.pt'; read a file with "
     "torch.load first"),
    ("it.load_state_dict(model.state_dict())", TypeError,
     "Aida.load_state_dict takes the dict that Aida.state_dict() gave: this one has 'weight', 'bias' and no "
     "'state' or 'param_groups'; of a checkpoint give the optimizer's part"),
]  # fmt: skip

RULES = [
    ("stepped(own(lambda gg: gg)(model.parameters()))", RuntimeError,
     "Own.rule gave a tensor of torch.float64 and shape (2,), not (alpha, beta): nothing was stepped; return "
     "two numbers, or two tensors of shape (2,) as its sums have"),
    ("own(lambda gg, power: (1, gg))", TypeError,
     "Own.rule takes (gg, power): 'power' is neither one of the sums gg, gm, mm, dd nor in Own.own; give "
     "it a default, as own = dict(power=0.5)"),
    ("own(lambda self, gg: (1, gg))", TypeError,
     "Own.rule is a method: what it reads from self is in no parameter group and no checkpoint; leave `self` "
     "out, and give the rule's own hyperparameters to `own`"),
    ("own((1,))", TypeError,
     "Own.rule is (1,); it must be a pair of numbers (alpha, beta), or a function of gg, gm, mm that gives "
     "them"),
    ("aida.check_member(torch.optim.SGD)", TypeError,
     "check_member takes a subclass of aida.Layerwise, not <class 'torch.optim.sgd.SGD'>"),
]  # fmt: skip

MONITOR = [
    (f"monitor.StepsizeMonitor({SGD})", TypeError,
     f"the stepsizes of SGD are not known, as those of this family are and of {KNOWN}; add its definition to "
     "aida.monitor.DEFINITIONS"),
    ("monitor.StepsizeMonitor(model)", TypeError,
     "StepsizeMonitor watches a torch.optim.Optimizer, not Linear"),
    ("monitor.StepsizeMonitor(it, nn.Linear(3, 2))", UserWarning,
     "this Linear has none of the parameters of this Aida, so that its layers have no names: give the model "
     "whose parameters() the optimizer has"),
    ("monitor.StepsizeMonitor(it, 'rows.jsonl')", TypeError,
     "model is a torch.nn.Module, for the layers' names, not str; give paths as sinks='rows.jsonl'"),
    ("monitor.StepsizeMonitor(it, every=0)", ValueError, "every is a number of steps, 1 or more, not 0"),
    ("monitor.StepsizeMonitor(it, sinks='runs/a')", ValueError,
     "'runs/a' is not a sink: a path must end in .jsonl or .csv, and beside paths there are \"memory\", "
     "TensorBoard(folder), WandB() and objects with a method write(rows)"),
    ("monitor.StepsizeMonitor(it, sinks=monitor.JSONL)", TypeError,
     "sinks are paths that end in .jsonl or .csv, \"memory\", or objects with a method write(rows), such as "
     "TensorBoard(folder), one or a list of them (an empty one for none), not <class "
     "'aida.monitor.files.JSONL'>: make an object of it, JSONL(...)"),
    ("monitor.StepsizeMonitor(it, sinks=[]).frame()", ValueError,
     'this monitor keeps no rows in memory: add Memory() to its sinks, sinks=["memory", ...]'),
    ("monitor.StepsizeMonitor(it, model).close()", UserWarning,
     "StepsizeMonitor has seen no step of its optimizer: make it of the optimizer whose step() is called, "
     "after any wrapper has replaced it"),
    (f"monitor.layer_stepsizes({SGD})", UserWarning,
     f"no rows: the stepsizes of SGD are not known, as those of this family are and of {KNOWN}; add its "
     "definition to aida.monitor.DEFINITIONS"),
]  # fmt: skip

CASES = [*CONSTRUCTOR, *BY_NAME, *STEP_AND_LOAD, *RULES, *MONITOR]


def stepped(optimizer):
    for group in optimizer.param_groups:
        for p in group["params"]:
            p.grad = torch.ones_like(p).to_sparse() if p.shape == (5, 2) else torch.ones_like(p)
    optimizer.step()


def known():
    model = nn.Linear(3, 2)
    return {
        "aida": aida, "torch": torch, "nn": nn, "monitor": monitor, "model": model, "train": train,
        "it": aida.Aida(model.parameters()), "embedding": nn.Embedding(5, 2), "stepped": stepped,
        "own": own,
    }  # fmt: skip


def own(rule):
    """A class with a rule, as its author writes it: a function with self is a method."""
    is_plain = callable(rule) and "self" not in rule.__code__.co_varnames
    return type("Own", (aida.Layerwise,), {"rule": staticmethod(rule) if is_plain else rule})


def message(typed):
    """(type, text) of what is raised, or of the one warning."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            eval(typed, known())
        except Exception as error:
            return type(error), str(error)
    assert len(caught) <= 1, [str(w.message) for w in caught]
    return (caught[0].category, str(caught[0].message)) if caught else (None, "")


@pytest.mark.parametrize(("typed", "kind", "text"), CASES, ids=[typed for typed, _, _ in CASES])
def test_a_wrong_use_is_told_in_one_sentence(typed, kind, text):
    assert message(typed) == (kind, text)


def test_what_is_right_says_nothing():
    """A negative control, of the same names."""
    for typed in ("aida.Aida(model.parameters(), K=1)", "stepped(it)", "aida.presets['vit']",
                  "monitor.StepsizeMonitor(it, model, every=1, sinks=[])"):  # fmt: skip
        assert message(typed) == (None, "")


def test_there_are_thirty_at_least():
    assert len(CASES) >= 30
    assert len({text for _, _, text in CASES}) == len(CASES)


def test_a_backward_whose_optimizer_is_gone_says_so():
    model = torch.nn.Linear(3, 2)
    optimizer = aida.Aida(model.parameters())
    handle = aida.release_gradients(optimizer, model)
    del optimizer
    gc.collect()
    with pytest.raises(RuntimeError, match="the optimizer that release_gradients stepped is gone"):
        model(torch.ones(1, 3)).sum().backward()
    handle.remove()
    model(torch.ones(1, 3)).sum().backward()


def test_gradients_are_averaged_over_one_process_group():
    model = torch.nn.Linear(3, 2)
    optimizer = aida.Aida(model.parameters())
    handle = aida.release_gradients(optimizer, model)
    with pytest.raises(ValueError, match="at work on this optimizer with another process_group"):
        aida.release_gradients(optimizer, model, process_group=object())
    assert aida.release_gradients(optimizer, model) is handle


@every_backend
def test_a_parameter_of_8_bits_is_refused(backend):
    backend.load()
    p, q = Parameter(torch.ones(3)), Parameter(torch.ones(3).to(torch.float8_e4m3fn), requires_grad=False)
    p.grad, q.grad = torch.ones(3), torch.zeros_like(q)
    optimizer = aida.Aida([p, q], **backend.arguments)
    with pytest.raises(
        RuntimeError, match=r"^Aida cannot step parameters of 8 bits \(parameter 1 of its group"
    ):
        optimizer.step()
    assert not optimizer.state
    assert p.tolist() == [1, 1, 1]
    q.grad = None
    optimizer.step()
