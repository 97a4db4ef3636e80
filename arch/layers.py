"""What a component of your own is made of, in one import."""

from arch.convolution import CausalConvolution
from arch.linear import BlockDiagonalLinear, Linear
from arch.norm import RMSNorm
from arch.parameters import Context, constant, normal, parameter
from arch.rotary import angles, rotary

__all__ = [
    "BlockDiagonalLinear",
    "CausalConvolution",
    "Context",
    "Linear",
    "RMSNorm",
    "angles",
    "constant",
    "normal",
    "parameter",
    "rotary",
]
