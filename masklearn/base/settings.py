"""Base of all settings: a frozen pydantic model that is checked once, and raises UsageError for a wrong setting."""

from typing import Any, Self

from pydantic import BaseModel, ConfigDict, ValidationError, field_validator

from masklearn.base.errors import HOW_TO_CORRECT, UsageError
from masklearn.base.printable import shown


class Settings(BaseModel):
    """Settings of a command or function, by name."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)

    @field_validator("*")
    @classmethod
    def _fits_64_bits(cls, value: Any) -> Any:
        """Seeds, array sizes and products with floats take no larger integers."""
        if isinstance(value, int) and not -(2**63) <= value < 2**63:
            raise ValueError("It has more than 64 bits")
        return value

    @classmethod
    def parse(cls, settings: dict[str, Any]) -> Self:
        """Check settings. Raises UsageError for the first wrong setting, with its name, its value and its valid values."""
        try:
            return cls(**settings)
        except ValidationError as error:
            raise _usage_error(error) from None


def _usage_error(error: ValidationError) -> UsageError:
    first = error.errors(include_url=False)[0]
    name, why = str(first["loc"][0]), first["msg"].removeprefix("Value error, ").rstrip(".")
    if first["type"] == "missing":
        return UsageError(f"The setting {name} is missing", "It has no default.", f"Give {name}.")
    if first["type"] == "extra_forbidden":
        return UsageError(f"There is no setting {name}", "No option has this name.", f"Drop {name}.")
    return UsageError(f"The setting {name} = {shown(first['input'])} is not valid", f"{why}.", HOW_TO_CORRECT)
