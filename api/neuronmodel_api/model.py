"""How all types here read and write JSON: camelCase outside, snake_case inside, frozen."""

from pydantic import BaseModel, ConfigDict
from pydantic.alias_generators import to_camel


class Strict(BaseModel):
    """A type that only this project writes: an unknown field is an error."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, extra="forbid", frozen=True)

    def to_json(self) -> dict[str, object]:
        """Returns JSON values, without unset fields."""
        return self.model_dump(mode="json", by_alias=True, exclude_none=True)


class Tolerant(Strict):
    """A type that a newer or older version may have written: unknown fields are ignored."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, extra="ignore", frozen=True)
