"""Precision, compiling, and steps that never wait for the device."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.amp import GradScaler
from torch.utils._python_dispatch import TorchDispatchMode

from datasets_src.images import normalise
from models_src.diagnosis import empty_sums, step_sums
from models_src.hardware import descend, require_compiler, require_precision, to_device
from models_src.joint import joint_step
from models_src.settings import TrainingSettings
from models_src.text_encoders import TEXT_ENCODERS
from models_src.training import new_run
from tests.conftest import SMALL, TINY, dirs
from tests.test_cli import fails
from tests.test_training import assert_same, run, weights
from utils.errors import UserError


class NothingWaits(TorchDispatchMode):
    """Fails where tensors go to the device in a copy that the program waits for."""

    copies = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func is torch.ops.aten._to_copy.default:
            goes = args[0].device.type == "cpu" and kwargs.get("device") == torch.device("meta")
            self.copies += goes
            assert not goes or kwargs.get("non_blocking"), "a copy that waits"
        return func(*args, **kwargs)


@pytest.mark.parametrize("kind", TEXT_ENCODERS)
@pytest.mark.parametrize("random_votes", [True, False])
def test_a_joint_step_waits_for_nothing_on_its_device(pairs, kind, random_votes):
    """Tensors on the device "meta" have no values, so that whatever asks for one fails."""
    settings = TrainingSettings(**SMALL | {"text_encoder": kind})
    with torch.device("meta"):
        of_run = new_run(settings, pairs, "meta")
    tokens = torch.from_numpy(pairs.captions.padded(np.arange(5)))
    totals = empty_sums(settings.cluster_num, "meta")
    with NothingWaits() as seen:
        result = joint_step(
            of_run.visual,
            of_run.optimizer,
            of_run.text,
            normalise(to_device(torch.zeros(5, 3, 32, 32, dtype=torch.uint8), "meta")),
            to_device(torch.arange(5), "meta"),
            tokens,
            settings.visual_threshold,
            settings.text_threshold,
            shares=of_run.shares,
            random_votes=random_votes,
        )
        totals += step_sums(result)
    assert totals.device.type == "meta"
    assert seen.copies >= 5


def test_bf16_learns_much_as_fp32_does_and_repeats_itself(pairs, tmp_path, thin):
    rows = {}
    for name, precision in (("a", "bf16"), ("b", "bf16"), ("c", "fp32")):
        run(pairs, tmp_path / name, settings={"epochs": 1, "precision": precision},
            report=lambda history, name=name: rows.update({name: history[-1]}))  # fmt: skip
    assert_same(weights(tmp_path / "a"), weights(tmp_path / "b"))
    reduced, full = (weights(tmp_path / name) for name in ("a", "c"))
    assert not torch.equal(reduced[0]["conv.weight"], full[0]["conv.weight"])
    for ours, theirs in zip(reduced[0].values(), full[0].values(), strict=True):
        assert ours.dtype == theirs.dtype
    assert rows["a"]["visual_loss"] == pytest.approx(rows["c"]["visual_loss"], rel=0.05)


def test_fp16_on_a_cpu_is_refused_in_one_line(demo_data, tmp_path, capsys):
    reduced = [*TINY, *dirs(demo_data, tmp_path), "--precision=fp16"]
    fails(capsys, *reduced, mentions="--precision fp16 needs a GPU")
    for precision, device in (("fp16", "cuda:1"), ("bf16", "cpu"), ("fp32", "cpu")):
        require_precision(precision, device)


def test_a_gradient_that_overflows_is_left_out_and_the_scale_falls():
    """The scale of fp16, on values that a CPU has as well."""
    weight = nn.Parameter(torch.ones(()))
    optimizer = torch.optim.SGD([weight], lr=0.5)
    scaler = GradScaler("cpu", init_scale=4.0, growth_interval=1)
    descend(weight * 3, optimizer, scaler)
    assert weight.item() == 1 - 0.5 * 3  # the scale is taken out again
    assert scaler.get_scale() == 8
    descend(weight * float("inf"), optimizer, scaler)
    assert weight.item() == 1 - 0.5 * 3
    assert scaler.get_scale() == 4


def test_the_gradient_scale_is_kept_in_checkpoints(pairs):
    settings = TrainingSettings(**SMALL | {"precision": "fp16"})
    first, second = (new_run(settings, pairs, "cpu") for _ in range(2))
    for scaler in (first.scaler, first.text.scaler):
        scaler.load_state_dict(scaler.state_dict() | {"scale": 12.0, "_growth_tracker": 7})
    second.load_state_dict(first.state_dict())
    for scaler in (second.scaler, second.text.scaler):
        assert scaler.state_dict()["scale"] == 12.0
        assert scaler.state_dict()["_growth_tracker"] == 7


def test_compiling_without_a_compiler_is_refused(pairs, tmp_path, monkeypatch):
    monkeypatch.setenv("CXX", str(tmp_path / "nothing"))
    with pytest.raises(UserError, match="--compile needs a C"):
        run(pairs, tmp_path, compile=True)
    require_compiler("cuda")
