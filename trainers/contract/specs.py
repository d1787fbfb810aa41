"""The specs of the built-in backbones: every field of SASRec and HSTU."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from trainers.contract.fields import Spec
from trainers.contract.space import Knob


class SASRecSpec(Spec):
    """SASRec: causal softmax attention (Kang & McAuley 2018), pre-norm, recency-aligned learned positions."""

    backbone: ClassVar[str] = "sasrec"

    feed_forward: Annotated[
        Literal["gelu", "swiglu"], Knob("architecture", neutral="gelu", about="what follows attention")
    ] = "gelu"


class HSTUSpec(Spec):
    """HSTU: pointwise SiLU attention with relative position bias (Zhai et al. 2024)."""

    backbone: ClassVar[str] = "hstu"

    linear_dim: Annotated[int, Knob("architecture", 8, 128, "log", about="width of u and v a head")] = 16
    attention_dim: Annotated[int, Knob("architecture", 8, 128, "log", about="width of q and k a head")] = 16
    feed_forward: Annotated[
        Literal["none", "gelu", "swiglu"], Knob("architecture", neutral="none", about="what follows attention")
    ] = "none"


SPECS: dict[str, type[Spec]] = {"sasrec": SASRecSpec, "hstu": HSTUSpec}
