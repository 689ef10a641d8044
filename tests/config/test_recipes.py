import tomllib

import pytest

from hemseg_cli.config import load, template
from hemseg_cli.config.recipes import preset, preset_values
from hemseg_cli.config.schema import TrainConfig

PAPER_MODELS = ["unet", "vnet", "segresnet", "attention-unet", "unetr", "swin-unetr"]


def _train(recipe: str, model: str) -> TrainConfig:
    return load(assignments=[f"train.recipe={recipe}", f"train.model={model}"], environ={}).train


@pytest.mark.parametrize("model", PAPER_MODELS)
def test_paper_is_the_published_setup(model):
    train = _train("paper", model)
    swin = model == "swin-unetr"
    assert train.spacing_mm == (0.4882810115814209, 0.4882810115814209, 4.649400138854981)
    assert train.windows == ((11.99969482421875, 79.0, 48.13441467285156, 13.457549095153809),)
    assert train.patch == ((128, 128, 32) if swin else (256, 256, 16))
    assert train.pad_to == ((512, 512, 32) if swin else (0, 0, 0))
    assert train.patches_per_scan == (2 if swin else 4)
    assert train.batch_size == {"unet": 4}.get(model, 2) * train.patches_per_scan
    assert (train.foreground_share, train.jitter, train.patch_order) == (0.5, 0, "by_scan")
    assert (train.optimiser, train.lr, train.weight_decay) == ("adamw", 0.01, 0.01)
    assert (train.schedule, train.step_epochs, train.step_factor, train.warmup) == (
        "step",
        10,
        0.9,
        0,
    )
    assert (train.epochs, train.seed, train.validation_every) == (200, 42, 2)
    assert (train.clip_norm, train.ema_share, train.precision) == (0, 0, "float32")


@pytest.mark.parametrize("model", PAPER_MODELS)
def test_paper_augments_by_mirroring_alone(model):
    augment = _train("paper", model).augment
    assert augment.mirror_p == (0.5, 0.5, 0.5)
    others = {
        key: value
        for key, value in augment.model_dump().items()
        if key.endswith("_p") and key != "mirror_p"
    }
    assert len(others) == 9
    assert set(others.values()) == {0.0}


@pytest.mark.parametrize("model", [*PAPER_MODELS, "dynunet"])
def test_strong_has_what_the_field_knows_to_work(model):
    train = _train("strong", model)
    assert len(train.windows) > 1
    assert train.foreground_share >= 1 / 3
    assert train.jitter > 0
    assert train.loss.dice > 0
    assert train.loss.cross_entropy + train.loss.focal > 0
    assert train.schedule in ("poly", "cosine")
    assert train.warmup > 0
    assert train.clip_norm > 0
    assert 0.01 <= train.ema_share <= 0.02
    assert train.patience is None
    chances = {
        key: value
        for key, value in train.augment.model_dump().items()
        if key.endswith("_p") and key != "mirror_p"
    }
    assert min(chances.values()) > 0


def test_presets_hold_keys_that_exist_and_are_copies():
    known = {"loss", "augment", *TrainConfig.model_fields}
    for recipe in ("paper", "strong"):
        assert set(preset(recipe, "unet")) <= known
    preset("paper", "unet")["augment"]["mirror_p"] = "spoilt"
    assert preset("paper", "unet")["augment"]["mirror_p"] == [0.5, 0.5, 0.5]
    assert preset("no such recipe", "unet") == {}


def test_the_template_states_no_key_that_a_recipe_sets():
    """Else `recipe = "paper"` in a file from `hemseg config init` would change the name alone."""
    stated = tomllib.loads(template())["train"]
    flat = {key for key, value in stated.items() if not isinstance(value, dict)}
    flat |= {
        f"{table}.{key}"
        for table, value in stated.items()
        if isinstance(value, dict)
        for key in value
    }
    assert flat.isdisjoint(preset_values("strong", "dynunet"))
    assert "# lr = 0.0" in template()
