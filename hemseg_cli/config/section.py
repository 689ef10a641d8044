"""The base of every section: frozen, and a key that is not known is an error."""

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """One table of `hemseg.toml`; every field has a description with its unit, which `hemseg config init` prints."""

    model_config = ConfigDict(frozen=True, extra="forbid")
