"""Static scales: one scale for all tokens of an activation, known before the model runs.

Standard graphs (QuantizeLinear, DequantizeLinear) and TensorRT's int8 tactics need them. The plugin takes a scale for each
token instead, which loses less.
"""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Scale = Annotated[float, Field(gt=0.0, allow_inf_nan=False)]


class StaticScales(BaseModel):
    """Scales of a linear's activations, which are integers -128 … 127 times a scale. float16 and bfloat16 hold each exactly.

    input: of X; output: of Y with its bias, None if Y stays in 16 bits because one scale would lose too much.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    input: Scale
    output: Scale | None = None
