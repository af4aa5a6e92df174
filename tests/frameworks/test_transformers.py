"""PruningCallback in the Trainer of transformers, on models of random weights."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fastprune as prune
from frameworks.page import run_snippet

transformers = pytest.importorskip("transformers")
pytest.importorskip("accelerate")  # which its Trainer needs

from fastprune.integrations.transformers import PruningCallback  # noqa: E402

SIZE, LENGTH = 32, 8


def gpt2() -> Any:
    torch.manual_seed(5)
    return transformers.GPT2LMHeadModel(
        transformers.GPT2Config(
            vocab_size=SIZE, n_positions=LENGTH, n_embd=16, n_layer=2, n_head=2, n_inner=32
        )
    )


def bert() -> Any:
    torch.manual_seed(5)
    return transformers.BertForMaskedLM(
        transformers.BertConfig(
            vocab_size=SIZE,
            hidden_size=16,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=32,
            max_position_embeddings=LENGTH,
        )
    )


MODELS: dict[str, Callable[[], Any]] = {"gpt2": gpt2, "bert": bert}


def data() -> list[dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(SIZE, (64, LENGTH), generator=generator)
    return [{"input_ids": row, "labels": row} for row in ids]


def trainer(model: Any, callback: Any, folder: Path, steps: int = 6, **options: Any) -> Any:
    # weight decay, as it writes to entries without a gradient
    options = {"weight_decay": 0.1, "learning_rate": 1e-2, "save_strategy": "no", **options}
    arguments = transformers.TrainingArguments(
        str(folder),
        max_steps=steps,
        per_device_train_batch_size=4,
        report_to="none",
        disable_tqdm=True,
        use_cpu=True,
        logging_steps=1,
        **options,
    )
    return transformers.Trainer(
        model, arguments, train_dataset=data(), eval_dataset=data()[:4], callbacks=[callback]
    )


def linear(model: Any) -> list[tuple[nn.Module, str]]:
    """What is pruned where nothing is said."""
    conv = transformers.pytorch_utils.Conv1D
    kinds = (nn.Linear, conv)
    return [(m, "weight") for m in model.base_model.modules() if isinstance(m, kinds)]


def masks(model: Any) -> list[Tensor]:
    return [m.get_buffer(f"{name}_mask").clone() for m, name in linear(model)]


def sparsity(model: Any) -> float:
    weights = [getattr(m, name) for m, name in linear(model)]
    return sum(int((w == 0).sum()) for w in weights) / sum(w.numel() for w in weights)


def rising(step: int) -> float:
    return min(0.2 * step, 0.8)


class Watch(transformers.TrainerCallback):
    """Weights and masks of a model, with what a function of it returns, after each step."""

    def __init__(self, look: Callable[[Any], Any]) -> None:
        self.look = look
        self.seen: dict[int, Any] = {}

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.seen[state.global_step] = self.look(kwargs["model"])

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.seen[state.global_step] = self.look(kwargs["model"])


# ---- what is pruned ----


@pytest.mark.parametrize("kind", MODELS)
def test_constant_sparsity_is_that_of_the_plain_function(kind: str, tmp_path: Path) -> None:
    model, plain = MODELS[kind](), MODELS[kind]()
    prune.global_unstructured(linear(plain), prune.L1Unstructured, sparsity=0.6)
    run = trainer(model, PruningCallback(0.6), tmp_path)
    run.train()
    assert len(masks(model)) == {"gpt2": 8, "bert": 12}[kind]
    for mine, expected in zip(masks(model), masks(plain), strict=True):
        assert torch.equal(mine, expected != 0)
    assert model.get_input_embeddings().weight.count_nonzero() > 0.9 * SIZE * 16
    assert not hasattr(model.get_output_embeddings(), "weight_mask")


@pytest.mark.parametrize("local", [False, True])
def test_schedule_is_that_of_the_plain_functions(local: bool, tmp_path: Path) -> None:
    model = gpt2()
    watch = Watch(lambda m: ([w.detach().clone() for w in weights(m)], masks(m)))
    run = trainer(model, PruningCallback(rising, every=2, local=local), tmp_path, steps=7)
    run.add_callback(watch)
    run.train()
    function = prune.local_unstructured if local else prune.global_unstructured
    before = [torch.ones_like(m) for m in watch.seen[0][1]]
    for step, (values, found) in watch.seen.items():
        if step % 2:
            assert all(map(torch.equal, found, before))
        left = sum(int(m.sum()) for m in found)
        total = sum(m.numel() for m in found)
        if not local:
            assert total - left == round(rising(step - step % 2) * total)
        for w, m, b in zip(values, found, before, strict=True):
            assert not w[~m].any() and not (m & ~b).any()
        before = found
    for step in (2, 4):  # weights of the same step, with the masks of before, by plain functions
        plain = gpt2()
        for (m, name), value in zip(linear(plain), watch.seen[step][0], strict=True):
            getattr(m, name).data.copy_(value)
        function(linear(plain), prune.L1Unstructured, sparsity=rising(step))
        found = watch.seen[step][1]
        assert all(torch.equal(a, b != 0) for a, b in zip(found, masks(plain), strict=True))


def weights(model: Any) -> list[Tensor]:
    return [getattr(m, name) for m, name in linear(model)]


def test_schedule_is_asked_at_each_multiple(tmp_path: Path) -> None:
    asked: list[int] = []

    def schedule(step: int) -> float | None:
        asked.append(step)
        return {0: None, 2: 0.5, 4: 0.3}[step]

    model = gpt2()
    watch = Watch(sparsity)
    run = trainer(model, PruningCallback(schedule, every=2), tmp_path, steps=5)
    run.add_callback(watch)
    run.train()
    assert asked == [0, 2, 4]
    assert [round(s, 3) for s in watch.seen.values()] == [0, 0, 0.5, 0.5, 0.5, 0.5]


def test_parameters_of_a_users(tmp_path: Path) -> None:
    model = gpt2()
    first = model.transformer.h[0].mlp.c_fc
    trainer(model, PruningCallback(0.5, [(first, "weight")]), tmp_path, steps=1).train()
    assert (first.weight == 0).sum() == first.weight.numel() // 2
    assert not hasattr(model.transformer.h[1].mlp.c_fc, "weight_mask")
    model = gpt2()
    callback = PruningCallback(0.5, lambda m: [(m.transformer.h[1].mlp.c_fc, "weight")])
    trainer(model, callback, tmp_path, steps=1).train()
    assert not hasattr(model.transformer.h[0].mlp.c_fc, "weight_mask")
    second = model.transformer.h[1].mlp.c_fc
    assert (second.weight == 0).sum() == second.weight.numel() // 2


def test_a_head_inside_of_the_base_model(tmp_path: Path) -> None:
    config = transformers.T5Config(
        vocab_size=SIZE,
        d_model=16,
        d_kv=8,
        d_ff=32,
        num_layers=1,
        num_heads=2,
        decoder_start_token_id=0,
    )
    model = transformers.T5ForConditionalGeneration(config)
    assert model.base_model is model
    trainer(model, PruningCallback(0.5), tmp_path, steps=1).train()
    assert not hasattr(model.lm_head, "weight_mask")
    assert hasattr(model.decoder.block[0].layer[0].SelfAttention.q, "weight_mask")


def test_wrong_parameters_change_nothing(tmp_path: Path) -> None:
    model = gpt2()
    before = {name: t.clone() for name, t in model.state_dict().items()}
    h = model.transformer.h[0]
    callback = PruningCallback(0.5, [(h.mlp.c_fc, "weight"), (h.mlp.c_proj, "wait")])
    with pytest.raises(AttributeError, match="wait"):
        trainer(model, callback, tmp_path, steps=1).train()
    assert not prune.is_pruned(model)
    after = model.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], t) for name, t in before.items())


def test_a_model_without_base_model(tmp_path: Path) -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding, self.out = nn.Embedding(SIZE, 16), nn.Linear(16, SIZE)

        def forward(self, input_ids: Tensor, labels: Tensor) -> dict[str, Tensor]:
            logits = self.out(self.embedding(input_ids))
            return {"loss": nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten())}

    model = Net()
    trainer(model, PruningCallback(0.5), tmp_path, steps=2).train()
    assert (model.out.weight == 0).sum() == model.out.weight.numel() // 2


class Taylor(prune.Unstructured):
    def scores(self, t: Tensor, mask: Tensor | None) -> Tensor:
        assert t.grad is not None
        return (t * t.grad).abs()


def test_method_that_ranks_by_gradients(tmp_path: Path) -> None:
    model = gpt2()
    callback = PruningCallback(lambda step: 0.5 if step == 2 else None, method=Taylor)
    trainer(model, callback, tmp_path, steps=3).train()
    assert sparsity(model) == pytest.approx(0.5, abs=1e-3)


def test_words_go_to_the_method(tmp_path: Path) -> None:
    model = gpt2()
    fc = model.transformer.h[0].mlp.c_fc
    factor = torch.ones(16, 1)
    factor[:8] = 0
    callback = PruningCallback(0.5, [(fc, "weight")], factor=factor)
    trainer(model, callback, tmp_path, steps=1).train()
    assert not fc.weight[:8].any() and fc.weight[8:].all()


def test_earlier_pruning_stays(tmp_path: Path) -> None:
    model = gpt2()
    h = model.transformer.h
    prune.random_unstructured(h[0].mlp.c_fc, "weight", amount=0.3)
    prune.random_unstructured(h[1].mlp.c_fc, "weight", amount=0.3)
    prune.in_place(h[1])
    earlier = [h[i].mlp.c_fc.weight_mask.clone() == 0 for i in (0, 1)]
    trainer(model, PruningCallback(0.4), tmp_path, steps=3).train()
    assert sparsity(model) == pytest.approx(0.4, abs=1e-3)
    assert not h[0].mlp.c_fc.weight[earlier[0]].any()
    assert not h[1].mlp.c_fc.weight[earlier[1]].any()


# ---- training ----


@pytest.mark.parametrize("clip", [0.0, 0.05])
@pytest.mark.parametrize("optim", ["adamw_torch", "adamw_torch_fused", "sgd", "adafactor"])
def test_entries_stay_zero(optim: str, clip: float, tmp_path: Path) -> None:
    model = gpt2()
    options: dict[str, Any] = {"gradient_accumulation_steps": 2} if optim == "sgd" else {}
    callback = PruningCallback(rising, every=2)
    trainer(model, callback, tmp_path, max_grad_norm=clip, optim=optim, **options).train()
    assert sparsity(model) == pytest.approx(0.8, abs=1e-3)
    for w, m in zip(weights(model), masks(model), strict=True):
        assert torch.equal(w != 0, m)


@pytest.mark.parametrize("accumulated", [1, 2])
def test_pruned_entries_do_not_count_when_clipping(accumulated: int, tmp_path: Path) -> None:
    """What is trained and logged is that of the ordinary form, whose gradients are of products."""

    def run(model: Any, *more: Any) -> list[float]:
        torch.manual_seed(0)
        made = trainer(
            model,
            more[0] if more else transformers.PrinterCallback,
            tmp_path,
            max_grad_norm=0.05,
            gradient_accumulation_steps=accumulated,
            optim="sgd",
            weight_decay=0.0,
        )
        made.train()
        return [log["grad_norm"] for log in made.state.log_history if "grad_norm" in log]

    ours, plain = gpt2(), gpt2()
    for model in (ours, plain):
        for module in model.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.0
    prune.global_unstructured(linear(plain), prune.L1Unstructured, sparsity=0.9)
    norms = run(ours, PruningCallback(0.9))
    assert len(norms) == 6
    assert norms == pytest.approx(run(plain), rel=1e-4)
    for (m, name), (other, _) in zip(linear(ours), linear(plain), strict=True):
        product = getattr(other, f"{name}_orig") * other.weight_mask
        torch.testing.assert_close(getattr(m, name).data, product.detach(), rtol=1e-4, atol=1e-6)


# ---- checkpoints ----


@pytest.mark.parametrize("kind", MODELS)
def test_saved_with_plain_names(kind: str, tmp_path: Path) -> None:
    model, names = MODELS[kind](), sorted(MODELS[kind]().state_dict())
    options = {"save_strategy": "steps", "save_steps": 3}
    trainer(model, PruningCallback(0.7), tmp_path / "runs", **options).train()
    assert sorted(model.state_dict()) == names
    model.save_pretrained(tmp_path / "saved")
    last = tmp_path / "runs" / "checkpoint-6"
    for folder in (tmp_path / "saved", last):
        loaded, info = type(model).from_pretrained(folder, output_loading_info=True)
        assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
        assert sparsity(loaded) == pytest.approx(0.7, abs=1e-3)
        for a, b in zip(weights(loaded), weights(model), strict=True):
            assert torch.equal(a, b)


@pytest.mark.parametrize("clip", [0.0, 1.0])
def test_resumed_as_if_it_had_not_stopped(clip: float, tmp_path: Path) -> None:
    options = {"save_strategy": "steps", "save_steps": 3, "max_grad_norm": clip}
    whole = gpt2()
    watch = Watch(masks)
    run = trainer(whole, PruningCallback(rising, every=2), tmp_path, **options)
    run.add_callback(watch)
    run.train()
    resumed = gpt2()
    again = Watch(masks)
    run = trainer(resumed, PruningCallback(rising, every=2), tmp_path, **options)
    run.add_callback(again)
    run.train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))
    assert sorted(again.seen) == [3, 4, 5, 6]
    for step, found in again.seen.items():
        assert all(map(torch.equal, found, watch.seen[step])), step
    for a, b in zip(weights(resumed), weights(whole), strict=True):
        assert torch.equal(a, b)


def test_resumed_keeps_what_a_random_method_pruned(tmp_path: Path) -> None:
    options = {"save_strategy": "steps", "save_steps": 2}
    model, resumed = gpt2(), gpt2()
    made = PruningCallback(0.5, method=prune.RandomUnstructured)
    trainer(model, made, tmp_path, steps=2, **options).train()
    made = PruningCallback(0.5, method=prune.RandomUnstructured)
    run = trainer(resumed, made, tmp_path, steps=4, **options)
    run.train(resume_from_checkpoint=True)
    assert all(map(torch.equal, masks(resumed), masks(model)))


def test_best_model_is_pruned_as_the_last(tmp_path: Path) -> None:
    model = gpt2()
    run = trainer(
        model,
        PruningCallback(rising),
        tmp_path,
        save_strategy="steps",
        save_steps=1,
        eval_strategy="steps",
        eval_steps=1,
        load_best_model_at_end=True,
    )
    run.train()
    for w, m in zip(weights(model), masks(model), strict=True):
        assert not w[~m].any()


def test_removed_at_the_end(tmp_path: Path) -> None:
    model = gpt2()
    trainer(model, PruningCallback(0.5, remove=True), tmp_path, steps=2).train()
    assert not prune.is_pruned(model)
    assert not any(name.endswith("_mask") for name, _ in model.named_buffers())
    assert sparsity(model) == pytest.approx(0.5, abs=1e-3)


def test_trained_twice_by_one_callback(tmp_path: Path) -> None:
    model = gpt2()
    run = trainer(model, PruningCallback(0.5), tmp_path, steps=2)
    run.train()
    before = masks(model)
    run.train()
    assert all(map(torch.equal, masks(model), before))
    assert sparsity(model) == pytest.approx(0.5, abs=1e-3)


# ---- the rest ----


@pytest.mark.parametrize(
    ("error", "match", "arguments"),
    [
        (TypeError, "float or a function", {"sparsity": 1}),
        (TypeError, "float or a function", {"sparsity": "half"}),
        (ValueError, r"range \[0, 1\]", {"sparsity": 1.5}),
        (TypeError, "every to be an int", {"sparsity": 0.5, "every": 2.0}),
        (ValueError, "every to be 1 or more", {"sparsity": 0.5, "every": 0}),
    ],
)
def test_wrong_arguments(error: type[Exception], match: str, arguments: dict[str, Any]) -> None:
    with pytest.raises(error, match=match):
        PruningCallback(**arguments)


def test_docstring_is_complete() -> None:
    doc = inspect.getdoc(PruningCallback) or ""
    for name in inspect.signature(PruningCallback).parameters:
        assert re.search(rf"^ +{name}: ", doc, re.MULTILINE), f"{name} is not described"
    assert "Raises:" in doc


def test_example(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    model = gpt2()
    run_snippet("The Trainer of Hugging Face", {"model": model, "data": data()})
    assert (tmp_path / "checkpoints" / "checkpoint-45").is_dir()
    assert sparsity(type(model).from_pretrained("pruned")) == pytest.approx(0.8, abs=1e-3)
