"""Which part of each tensor a rank of a tensor-parallel model takes; and tensors into modules."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from operator import index

from forebay._errors import ConfigError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from forebay.weights._model import Plan, TensorInfo


def parts(plan: Plan, infos: Iterable[TensorInfo], names: Mapping[str, int]) -> list[list[tuple[int, int]] | None]:
    """For each tensor the range of indexes of each dimension, or None where all of it is wanted."""
    if isinstance(plan, Mapping):
        unknown = [name for name in plan if name not in names]
        if unknown:
            raise ConfigError(
                f"slices: there is no tensor {unknown[0]!r} (of {len(unknown)} such names); the model has {len(names)}"
            )
        found: Callable[[str, tuple[int, ...], str], Any] = lambda name, _shape, _dtype: plan.get(name)  # noqa: E731
    elif callable(plan):
        found = plan
    else:
        raise ConfigError(
            f"slices={plan!r}: give {{name: (dimension, rank, world)}}, or a function of name, shape and dtype"
        )
    return [_part(info, found(info.name, info.shape, info.dtype)) for info in infos]


def _part(info: TensorInfo, wanted: Any) -> list[tuple[int, int]] | None:
    if wanted is None:
        return None
    wrong = f"slices: {info.name!r} of shape {list(info.shape)}: {wanted!r}: give (dimension, rank, world)"
    try:
        dimension, rank, world = map(index, wanted)
    except (TypeError, ValueError):
        raise ConfigError(wrong) from None
    if not -len(info.shape) <= dimension < len(info.shape):
        raise ConfigError(f"{wrong}, with a dimension that the tensor has")
    if not 0 <= rank < world:
        raise ConfigError(f"{wrong}, with a rank from 0 to world - 1")
    part = [(0, size) for size in info.shape]
    size = info.shape[dimension]
    part[dimension] = (rank * size // world, (rank + 1) * size // world)
    return part


def load_into(model: Any, state: Mapping[str, Any]) -> tuple[list[str], list[str]]:
    """Tensors into a torch module: (missing, unexpected) names, where one of several names of shared memory is enough."""
    missing, unexpected = model.load_state_dict(state, strict=False)
    if not missing:
        return list(missing), list(unexpected)
    own = model.state_dict(keep_vars=True)
    places = {_place(own[name]) for name in state if name in own}
    return [name for name in missing if _place(own[name]) not in places], list(unexpected)


def _place(tensor: Any) -> tuple[Any, ...]:
    """Where a tensor lies: equal for two names of the same one."""
    if tensor.device.type == "meta" or tensor.numel() == 0:
        return (id(tensor),)
    return (tensor.device, tensor.data_ptr(), tuple(tensor.shape), tensor.stride())
