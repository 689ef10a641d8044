"""Write `hemseg.toml`: the effective configuration, or every key with its description."""

from collections.abc import Iterator
from typing import cast

import tomli_w
from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from hemseg_cli.config.layers import Tree
from hemseg_cli.config.recipes import preset_values
from hemseg_cli.config.schema import Config
from hemseg_cli.core.urls import without_secrets_in


def dump(config: Config) -> str:
    """Write the whole configuration as TOML, without secrets in URLs.

    Keys without a value are left out; tables of models are merged into `[train]` already.
    """
    return tomli_w.dumps(without_secrets_in(config.model_dump(mode="json", exclude_none=True)))


def plain(config: Config) -> Tree:
    """Return the same as plain values, keys without a value as None."""
    return cast(Tree, without_secrets_in(config.model_dump(mode="json")))


def template() -> str:
    """A `hemseg.toml` with every key at its default, each under its description.

    Keys without a default are commented out, and so are those that a recipe sets: stated in the
    file they would overrule it.
    """
    lines = [
        "# hemseg.toml: every key with its default. Delete what you do not change; what the recipe",
        "# sets is commented out.",
    ]
    for section, field in Config.model_fields.items():
        lines += [
            "",
            f"# {field.description}",
            *_template_section(section, cast(type[BaseModel], field.annotation)),
        ]
    return "\n".join(lines) + "\n"


def _template_section(name: str, model: type[BaseModel]) -> Iterator[str]:
    yield f"[{name}]"
    tables = []
    of_recipe = {
        f"train.{key}": value
        for key, value in preset_values(Config().train.recipe, Config().train.model).items()
    }
    for key, field in model.model_fields.items():
        default = field.get_default(call_default_factory=True)
        if isinstance(default, BaseModel):
            tables.append((key, type(default), field.description))
            continue
        yield f"# {field.description}"
        if f"{name}.{key}" in of_recipe:
            yield "# " + " ".join(
                tomli_w.dumps({key: of_recipe[f"{name}.{key}"]}, indent=0).split()
            )
        elif default is None or default is PydanticUndefined:
            yield f"# {key} ="
        elif isinstance(default, dict):
            yield f"{key} = {{}}"
        else:
            plain = model.model_construct(**{key: default}).model_dump(
                mode="json", include={key}, warnings=False
            )[key]
            yield tomli_w.dumps({key: plain}).strip()
    for key, table, description in tables:
        yield from ("", f"# {description}")
        yield from _template_section(f"{name}.{key}", table)
