"""The strict reading of a config.json: each value is asked for by key, type and bounds, and what does not fit is told.

given = Given.of(folder / "config.json")
width = given.whole("hidden_size")                          # missing, 3.5, NaN, true, -1: one line each
given.choice("hidden_act", ("silu",), "silu")               # another one is what our layers do not have
given.only("rms_norm", True)                                # anything else is refused

Keys that nobody asks for are left alone: what their model does not read does not change what it computes. Those that
change every model are refused here: quantized weights, code that the folder brings, and layers that see the future.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn, TypeGuard

from farfield.config import ModelError, unknown

__all__ = ["LONGEST", "Given", "UncoveredError", "finite"]

SIZE = 1 << 24  # no width, vocabulary or head count of a model is larger
LONGEST = 1 << 40  # tokens that a model may be said to read
FILE = 1 << 24  # bytes of a file of settings
MISSING: Any = object()


class UncoveredError(ModelError):
    """What our layers do not have, and those of transformers may: a family, or a setting of one."""


def finite(value: object) -> TypeGuard[float]:
    """Whether a value is a number, and one that a float holds."""
    try:
        return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    except OverflowError:  # a whole number of more than 308 digits
        return False


@dataclass(frozen=True)
class Given:
    """The settings `values` of a `file`, below `path` in it."""

    values: Mapping[str, Any]
    file: Path
    path: str = ""

    @staticmethod
    def of(file: Path) -> Given:
        """The JSON object in a file.

        Raises:
            ModelError: there is none, or it says that weights are quantized, that code of the folder is to be run, or
                that tokens see those behind them.
        """
        try:
            if file.stat().st_size > FILE:
                raise ModelError(f"{file}: {file.stat().st_size:,} bytes, too many for settings.")
            values = json.loads(file.read_text(encoding="utf-8"))
        except OSError as error:
            raise ModelError(f"{file}: cannot be read: {error.strerror}.") from None
        except (ValueError, RecursionError) as error:
            raise ModelError(f"{file}: not JSON: {str(error)[:100]}") from None
        if not isinstance(values, dict):
            raise ModelError(f"{file}: a JSON object is needed, not {type(values).__name__}.")
        given = Given(values, file)
        given.unset("quantization_config", "weights as numbers are needed")
        given.unset("auto_map", "it names code that the folder brings, and none is run")
        given.only("is_causal", True)
        return given

    def whole(self, key: str, default: Any = MISSING, least: int = 1, most: int = SIZE) -> int:
        """A whole number within bounds."""
        value = self._value(key, default)
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
            self.refuse(key, f"a whole number from {least:,} to {most:,} is needed")
        return int(value)

    def number(
        self,
        key: str,
        default: Any = MISSING,
        least: float | None = None,
        above: float | None = None,
        most: float | None = None,
    ) -> float:
        """A finite number within bounds."""
        value = self._value(key, default)
        if not finite(value):
            self.refuse(key, "a finite number is needed")
        if least is not None and value < least:
            self.refuse(key, f"at least {least:g} is needed")
        if above is not None and value <= above:
            self.refuse(key, f"more than {above:g} is needed")
        if most is not None and value > most:
            self.refuse(key, f"at most {most:,.9g} is needed")
        return float(value)

    def flag(self, key: str, default: Any = MISSING) -> bool:
        """True or false."""
        value = self._value(key, default)
        if not isinstance(value, bool):
            self.refuse(key, "true or false is needed")
        return bool(value)

    def choice(self, key: str, known: tuple[str, ...], default: Any = MISSING) -> str:
        """One of the texts that are `known` to our layers.

        Raises:
            UncoveredError: another text.
        """
        value = self._value(key, default)
        if not isinstance(value, str):
            self.refuse(key, "a text is needed")
        if value not in known:
            one = f'"{value}" given; nothing but "{known[0]}" is supported.'
            said = unknown("unsupported", value, known) if len(known) > 1 else one
            raise UncoveredError(f"{self.file}: {self._at(key)}: {said}")
        return value

    def texts(self, key: str, known: tuple[str, ...], count: int) -> tuple[str, ...] | None:
        """So many of the `known` texts; None where there are none."""
        value = self.values.get(key)
        if value is None:
            return None
        if not isinstance(value, list) or len(value) != count:
            self.refuse(key, f"a list of {count} is needed")
        for one in value:
            if one not in known:
                raise ModelError(f"{self.file}: {self._at(key)}: " + unknown("unsupported", str(one), known))
        return tuple(value)

    def within(self, key: str) -> Given | None:
        """The settings below a key; None where there are none."""
        value = self.values.get(key)
        if value is None:
            return None
        if not isinstance(value, dict):
            self.refuse(key, "an object is needed")
        return Given(value, self.file, self._at(key))

    def only(self, key: str, allowed: str | float) -> None:
        """Refuses any other value than the one that is `allowed`, or none."""
        value = self.values.get(key)
        if value is not None and (isinstance(value, bool) != isinstance(allowed, bool) or value != allowed):
            self.refuse(key, f"nothing but {json.dumps(allowed)} is supported")

    def unset(self, key: str, why: str) -> None:
        """Refuses any value but null, false and empty ones."""
        if self.values.get(key):
            self.refuse(key, why)

    def refuse(self, key: str, needed: str) -> NoReturn:
        """Raises a ModelError that names the value, and what is `needed` or why it cannot be."""
        given = json.dumps(self.values.get(key))
        given = given if len(given) <= 60 else f"{given[:57]}..."
        raise ModelError(f"{self.file}: {self._at(key)}: {given} given; {needed}.")

    def _value(self, key: str, default: Any) -> Any:
        value = self.values.get(key)
        if value is not None:
            return value
        if default is MISSING:
            raise ModelError(f"{self.file}: {self._at(key)} is missing.")
        return default

    def _at(self, key: str) -> str:
        return f"{self.path}.{key}" if self.path else key
