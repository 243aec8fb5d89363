"""In the real Hugging Face Trainer: its arguments, its reporters, and trainings that are tried again."""

import pickle
import subprocess
import sys

import pytest
import torch
from torch import nn

import aida
from aida.monitor import Memory, callbacks
from helpers.peers import needed
from helpers.small_net import EXAMPLES, NAMES, Net, recorded

transformers = needed("transformers")
from aida.integrations import transformers as integration  # noqa: E402
from aida.integrations.transformers import StepsizeCallback, optimizer_cls_and_kwargs  # noqa: E402


def arguments(folder, **own):
    given = dict(per_device_train_batch_size=2, max_steps=6, report_to=[], use_cpu=True, disable_tqdm=True,
                 logging_steps=2, save_strategy="no")  # fmt: skip
    return transformers.TrainingArguments(str(folder), **{**given, **own})


def trainer_of(folder, model=None, callback=None, given=(), **own):
    return transformers.Trainer(
        model or Net(),
        arguments(folder, **dict(given)),
        train_dataset=EXAMPLES,
        callbacks=[callback] if callback else [],
        **own,
    )


def test_the_optimizer_is_watched_and_the_monitor_closed(tmp_path):
    model, callback = Net(), StepsizeCallback(every=2)
    optimizer = aida.Aida(model.parameters())
    trainer_of(tmp_path, model, callback, optimizers=(optimizer, None)).train()
    assert recorded(callback.monitor) == [1, 2, 4, 6]
    assert not callback.monitor._hooks


class Reporter(transformers.TrainerCallback):
    """Keeps what a reporter such as TensorBoard's is given, and closes when training ends, as they do."""

    def __init__(self):
        self.given, self.closed = [], False

    def on_log(self, args, state, control, logs=None, **kwargs):
        assert not self.closed
        control.should_log = False
        self.given.append((state.global_step, dict(logs)))

    def on_train_end(self, args, state, control, **kwargs):
        self.closed = True


@pytest.mark.parametrize("watched", [True, False])
def test_reporters_get_the_numbers_and_the_trainers_own_logs_stay(watched, tmp_path, capsys):
    reporter = Reporter()
    trainer = trainer_of(tmp_path, callback=reporter)
    if watched:
        trainer.add_callback(StepsizeCallback(trainer, every=2, sinks=["logger", tmp_path / "rows.jsonl"]))
    trainer.train()
    losses = [step for step, logs in reporter.given if "loss" in logs]
    assert losses == [2, 4, 6]
    records = [(step, logs) for step, logs in reporter.given if "stepsize_mean/body.weight" in logs]
    assert [step for step, _ in records] == ([1, 2, 4, 6] if watched else [])
    assert all({f"stepsize_capped/{name}" for name in NAMES} <= logs.keys() for _, logs in records)
    assert not [logs for logs in trainer.state.log_history if any("stepsize" in key for key in logs)]
    assert "stepsize" not in capsys.readouterr().out
    assert (tmp_path / "rows.jsonl").exists() == watched


class OutOfMemory(Net):
    """Fails as a GPU does for more than one example, at the second batch."""

    calls = 0

    def forward(self, x, labels):
        self.calls += 1
        if self.calls > 1 and len(x) > 1:
            raise RuntimeError("CUDA out of memory.")
        return super().forward(x, labels)


def test_a_training_that_is_tried_again_is_recorded_once(tmp_path):
    model, memory = OutOfMemory(), Memory()
    optimizer = aida.Aida(model.parameters())
    callback = StepsizeCallback(every=1, sinks=memory)
    trainer = trainer_of(
        tmp_path, model, callback, given={"auto_find_batch_size": True, "max_steps": 3},
        optimizers=(optimizer, None),
    )  # fmt: skip
    trainer.train()
    assert [row["step"] for row in memory.rows if row["kind"] == "spread"] == [1, 2, 3, 4]
    assert not optimizer._optimizer_step_post_hooks


class Normed(nn.Module):
    def __init__(self):
        super().__init__()
        self.body, self.layernorm, self.head = nn.Linear(4, 4), nn.LayerNorm(4), nn.Linear(4, 1)

    def forward(self, x, labels):
        return {"loss": (self.head(self.layernorm(self.body(x))) - labels).square().mean()}


GIVEN = dict(learning_rate=0.02, adam_beta1=0.8, adam_beta2=0.97, adam_epsilon=1e-6, weight_decay=0.1)


def groups(trainer, *keys):
    """Names and values of each group; the AdamW of older torch versions does not say how it decays."""
    names = {p: name for name, p in trainer.model.named_parameters()}
    return [
        ([names[p] for p in group["params"]], *(group.get(key, True) for key in keys))
        for group in trainer.create_optimizer().param_groups
    ]


def test_training_arguments_become_the_optimizers_as_they_become_adamws(tmp_path):
    """The oracle is the Trainer's own AdamW."""
    keys = ("lr", "betas", "eps", "weight_decay", "decoupled_weight_decay")
    args = arguments(tmp_path, **GIVEN)
    ours = trainer_of(
        tmp_path, Normed(), given=GIVEN, optimizer_cls_and_kwargs=optimizer_cls_and_kwargs(args)
    )
    theirs = trainer_of(tmp_path, Normed(), given={**GIVEN, "optim": "adamw_torch"})
    assert groups(ours, *keys) == groups(theirs, *keys)
    assert groups(ours)[0] == (["body.weight", "head.weight"],)
    assert type(ours.optimizer) is aida.Aida


def test_optim_args_and_the_callers_own_come_first(tmp_path):
    args = arguments(tmp_path, **GIVEN, optim_args="K=1, xi=1e-12,layerwise=post")
    cls, kwargs = optimizer_cls_and_kwargs(args, aida.LAida, eps=1e-9)
    (group,) = cls(Net().parameters(), **kwargs).param_groups
    assert {k: group[k] for k in ("K", "xi", "layerwise", "eps")} == {
        "K": 1, "xi": 1e-12, "layerwise": "post", "eps": 1e-9
    }  # fmt: skip
    for wrong in ("aida", torch.optim.AdamW, 3):
        with pytest.raises(TypeError, match=r"cls is a class of the family, such as aida.Aida, not"):
            optimizer_cls_and_kwargs(args, wrong)


ELSEWHERE = dict(lr=0.5, betas=(0.5, 0.6), eps=1e-3, decoupled_weight_decay=False, weight_decay=0.3)


@pytest.mark.parametrize("by", ["own", "optim_args"])
@pytest.mark.parametrize("name", integration.FROM)
def test_an_argument_is_in_every_group_of_the_trainers_or_refused(name, by, tmp_path):
    """Whatever TrainingArguments say of it, which the Trainer may write into the groups itself."""
    value = ELSEWHERE[name]
    own = {name: value} if by == "own" else {}
    args = arguments(tmp_path, **GIVEN, **({} if own else {"optim_args": f"{name}={value}"}))
    if name == "weight_decay":
        told = (
            "weight_decay=0.3 would have no effect: the Trainer writes TrainingArguments.weight_decay, 0.1, "
            "into the optimizer's groups; give TrainingArguments(weight_decay=0.3)"
        )
        with pytest.raises(TypeError) as caught:
            optimizer_cls_and_kwargs(args, **own)
        assert str(caught.value) == told
        return
    given = optimizer_cls_and_kwargs(args, **own)
    trainer = trainer_of(tmp_path, Normed(), given=GIVEN, optimizer_cls_and_kwargs=given)
    assert [group[name] for group in trainer.create_optimizer().param_groups] == [value] * 2


def test_layers_that_need_names_are_refused_with_a_way_that_goes(tmp_path):
    model, args = Normed(), arguments(tmp_path)
    with pytest.raises(TypeError, match=r"make one, Trainer\(optimizers=\(Aida\(model.named_"):
        optimizer_cls_and_kwargs(args, layers="module")
    optimizer = aida.Aida(model.named_parameters(), layers="module")
    trainer_of(tmp_path, model, optimizers=(optimizer, None)).train()
    assert len(optimizer.state) == 6


def test_optim_args_may_have_commas_in_brackets(tmp_path):
    for text in ("betas=(0.9,0.95),K=1", "K=1, betas = [0.9, 0.95] ,"):
        cls, kwargs = optimizer_cls_and_kwargs(arguments(tmp_path, optim_args=text))
        (group,) = cls(Net().parameters(), **kwargs).param_groups
        assert (group["betas"], group["K"]) == ((0.9, 0.95), 1)


def test_a_training_that_begins_anew_takes_its_new_learning_rate(tmp_path):
    args = arguments(tmp_path, lr_scheduler_type="constant")
    trainer = transformers.Trainer(
        model_init=Net,
        args=args,
        train_dataset=EXAMPLES,
        optimizer_cls_and_kwargs=optimizer_cls_and_kwargs(args),
    )
    for lr in (0.1, 0.01):
        trainer.args.learning_rate = lr
        trainer.train()
        assert trainer.optimizer.param_groups[0]["lr"] == lr


def test_a_search_over_the_learning_rate_is_one(tmp_path):
    needed("optuna")
    args = arguments(tmp_path, lr_scheduler_type="constant")
    trainer = transformers.Trainer(
        model_init=Net, args=args, train_dataset=EXAMPLES, eval_dataset=EXAMPLES,
        optimizer_cls_and_kwargs=optimizer_cls_and_kwargs(args),
    )  # fmt: skip
    taken = []
    trainer.add_callback(when_trained(lambda optimizer: taken.append(optimizer.param_groups[0]["lr"])))
    best = trainer.hyperparameter_search(
        hp_space=lambda trial: {"learning_rate": trial.suggest_categorical("learning_rate", [0.1, 0.01])},
        backend="optuna", n_trials=3, direction="minimize",
    )  # fmt: skip
    assert len(taken) == 3
    assert set(taken) <= {0.1, 0.01}
    assert best.hyperparameters["learning_rate"] in taken


def when_trained(see):
    class Seen(transformers.TrainerCallback):
        def on_train_end(self, args, state, control, optimizer=None, **kwargs):
            see(optimizer)

    return Seen()


def test_a_callback_pickles_without_its_trainer(tmp_path):
    trainer = trainer_of(tmp_path)
    callback = StepsizeCallback(trainer, every=3, sinks=tmp_path / "rows.jsonl")
    callback.begin([aida.Aida(trainer.model.parameters())], trainer.model, has_logger=True)
    again = pickle.loads(pickle.dumps(callback))
    assert (again.monitors, again.trainer, again.arguments["every"]) == ((), None, 3)
    assert again.sinks[0].path == tmp_path / "rows.jsonl"
    assert type(again) is StepsizeCallback
    assert StepsizeCallback.__qualname__ == "StepsizeCallback"
    callback.monitors = ()


def test_the_former_names_warn_and_are_the_same_class():
    for take in (lambda: callbacks.HuggingFaceCallback(), callbacks.huggingface_callback):
        with pytest.warns(DeprecationWarning, match=r"use aida.integrations.transformers.StepsizeCallback"):
            assert type(take()) is StepsizeCallback


def test_nothing_is_imported_that_is_not_asked_for():
    peers = ("transformers", "lightning", "pytorch_lightning", "accelerate", "timm", "composer", "keras")
    code = (
        f"import sys, aida, aida.monitor, aida.integrations; print([x for x in {peers} if x in sys.modules])"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True) == "[]\n"


def test_optunas_search_tries_other_learning_rates(tmp_path):
    needed("optuna")
    args = arguments(tmp_path, eval_strategy="epoch", max_steps=3)
    trainer = transformers.Trainer(
        model_init=Net, args=args, train_dataset=EXAMPLES, eval_dataset=EXAMPLES,
        optimizer_cls_and_kwargs=optimizer_cls_and_kwargs(args),
    )  # fmt: skip
    used = []
    trainer.add_callback(Learning(used))
    trainer.hyperparameter_search(
        hp_space=lambda trial: {"learning_rate": trial.suggest_float("learning_rate", 0.001, 0.1)},
        compute_objective=lambda metrics: metrics["eval_loss"],
        n_trials=3,
        backend="optuna",
    )
    assert len(set(used)) == 3


class Learning(transformers.TrainerCallback):
    """Keeps the learning rate that each training begins with."""

    def __init__(self, used):
        self.used = used

    def on_train_begin(self, args, state, control, **kwargs):
        assert type(kwargs["optimizer"]).__name__ in ("Aida", "AcceleratedOptimizer")
        self.used.append(kwargs["optimizer"].param_groups[0]["lr"])


@pytest.mark.parametrize(
    ("make", "kind", "text"),
    [
        (lambda: StepsizeCallback(sinks="logger"), TypeError,
         'sinks="logger" needs the Trainer whose reporters they are: '
         "trainer.add_callback(StepsizeCallback(trainer))"),
        (lambda: StepsizeCallback(100), TypeError, "trainer is a transformers.Trainer, not int"),
        (lambda: StepsizeCallback(sinks="runs"), ValueError,
         "'runs' is not a sink: a path must end in .jsonl or .csv, and beside paths there are \"memory\" and "
         '"logger", TensorBoard(folder), WandB() and objects with a method write(rows)'),
        (lambda: optimizer_cls_and_kwargs(None, "aida"), TypeError,
         "cls is a class of the family, such as aida.Aida, not 'aida'"),
    ],
)  # fmt: skip
def test_a_wrong_use_is_told_in_one_sentence(make, kind, text):
    with pytest.raises(kind) as caught:
        make()
    assert str(caught.value) == text
