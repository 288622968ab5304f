"""How every type here reads and writes JSON: camelCase outside, snake_case inside, frozen."""

from pydantic import BaseModel, ConfigDict
from pydantic.alias_generators import to_camel


class Strict(BaseModel):
    """A type that this project alone writes: an unknown field is a mistake."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, extra="forbid", frozen=True)

    def to_json(self) -> dict[str, object]:
        """As JSON values, without what is unset."""
        return self.model_dump(mode="json", by_alias=True, exclude_none=True)


class Tolerant(Strict):
    """A type that a newer or older version of us may have written: what is unknown is left out."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, extra="ignore", frozen=True)
