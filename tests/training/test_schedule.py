import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR, PolynomialLR, StepLR

from hemseg_cli.config import load
from hemseg_cli.config.schema import TrainConfig
from hemseg_cli.training.schedule import LearningRateSchedule, learning_rate, make_optimizer


def _train(**values: object) -> TrainConfig:
    return TrainConfig.model_validate({"lr": 0.1, **values})


def _optimizer(lr: float) -> torch.optim.Optimizer:
    return torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=lr)


def test_paper_learning_rates_are_steplrs_epoch_by_epoch():
    train = load(assignments=["train.recipe=paper", "train.model=unet"], environ={}).train
    reference = _optimizer(0.01)
    scheduler = StepLR(reference, 10, 0.9)
    schedule = LearningRateSchedule(
        make_optimizer(nn.Linear(1, 1), train), train, total_steps=200 * 34
    )
    for epoch in range(200):
        for step in (0, 17, 33):
            schedule.set_progress((epoch * 34 + step) / (200 * 34))
            assert schedule.lr == pytest.approx(reference.param_groups[0]["lr"])
        reference.step()
        scheduler.step()


@pytest.mark.parametrize(
    ("name", "scheduler"),
    [
        ("poly", lambda o: PolynomialLR(o, 100, 0.9)),
        ("cosine", lambda o: CosineAnnealingLR(o, 100)),
    ],
)
def test_poly_and_cosine_are_torchs(name, scheduler):
    reference = _optimizer(0.1)
    expected = scheduler(reference)
    for step in range(100):
        assert learning_rate(_train(schedule=name), step / 100, total_steps=100) == pytest.approx(
            reference.param_groups[0]["lr"], abs=1e-9
        )
        reference.step()
        expected.step()


def test_warm_up_rises_linearly_to_the_highest_rate():
    reference = _optimizer(0.1)
    scheduler = LinearLR(reference, 0.01, 1.0, total_iters=20)
    train = _train(schedule="constant", warmup=0.2)
    for step in range(30):
        assert learning_rate(train, step / 100, total_steps=100) == pytest.approx(
            reference.param_groups[0]["lr"]
        )
        reference.step()
        scheduler.step()


@pytest.mark.parametrize("name", ["poly", "cosine"])
def test_the_last_step_is_taken_at_a_rate_above_zero(name):
    assert 0 < learning_rate(_train(schedule=name), 1.0, total_steps=50) < 0.01


def test_the_state_restores_the_rate():
    train = _train(schedule="cosine", warmup=0.1)
    schedule = LearningRateSchedule(_optimizer(0.1), train, 100)
    schedule.set_progress(0.63)
    other = LearningRateSchedule(_optimizer(0.1), train, 100)
    assert other.lr != schedule.lr
    other.load_state_dict(schedule.state_dict())
    assert other.lr == schedule.lr


def test_optimisers_have_the_settings_of_the_config():
    network = nn.Linear(2, 2)
    network.bias.requires_grad_(False)
    adamw = make_optimizer(network, load(assignments=["train.recipe=paper"], environ={}).train)
    assert isinstance(adamw, torch.optim.AdamW)
    assert (adamw.defaults["lr"], adamw.defaults["weight_decay"], adamw.defaults["betas"]) == (
        0.01,
        0.01,
        (0.9, 0.999),
    )
    assert [len(group["params"]) for group in adamw.param_groups] == [1]
    sgd = make_optimizer(network, _train(optimiser="sgd", momentum=0.99, weight_decay=3e-5))
    assert isinstance(sgd, torch.optim.SGD)
    assert (sgd.defaults["momentum"], sgd.defaults["nesterov"], sgd.defaults["weight_decay"]) == (
        0.99,
        True,
        3e-5,
    )
