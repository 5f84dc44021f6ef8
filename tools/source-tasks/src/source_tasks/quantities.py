"""Source `quantities`: generated questions of mathematics, science and code whose answer is known.

A family is a function that draws numbers and says what to ask, how it is worked out and what comes out. Answers are
exact: integers, fractions, or decimals that end. A question has no environment, so its row has a null `task_binary`;
`meta` holds `domain`, `answer` and `solution` (the working, with the answer in `\\boxed{}`), and for code `tests`
(Python assertions that follow the program) and `solution` (the program).

The numbers of a question are its held-out key: which split they belong to follows from their hash, whatever the seed.
"""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal, NamedTuple

from recipe_core.seeds import row_random
from source_tasks.heldout import split_of
from source_tasks.source import Candidate

LICENCE = "Apache-2.0"
ORIGIN = "generated: source_tasks.quantities"

# So many draws in a row that give nothing new mean that a family has run dry.
_MOST_MISSES = 500


@dataclass(frozen=True)
class Question:
    """One question in plain values."""

    ask: Sequence[str]
    """Ways to ask; one is drawn."""
    solution: str
    """The working, or the program."""
    answer: str | None = None
    """What comes out, as a number or fraction without a unit; None for code."""
    tests: str | None = None


class Family(NamedTuple):
    """A kind of question."""

    domain: str
    draw: Callable[[random.Random], dict[str, int]]
    """Draws the numbers."""
    pose: Callable[..., Question]
    """Makes the question of them."""


def number(value: Fraction | int) -> str:
    """Return a number as it is asked for and answered: an integer, a decimal that ends, else a fraction.

    >>> number(Fraction(5, 2)), number(Fraction(1, 3)), number(7)
    ('2.5', '1/3', '7')
    """
    value = Fraction(value)
    rest = value.denominator
    for prime in (2, 5):
        while rest % prime == 0:
            rest //= prime
    if rest != 1:
        return f"{value.numerator}/{value.denominator}"
    return format((Decimal(value.numerator) / Decimal(value.denominator)).normalize(), "f")


def _worked(ask: Sequence[str], steps: str, value: Fraction | int, unit: str = "") -> Question:
    answer = number(value)
    return Question(ask, f"{steps}\n\nThe answer is \\boxed{{{answer}}}{f' {unit}' if unit else ''}.", answer)


def _linear(a: int, b: int, c: int, x: int) -> Question:
    d = (a - c) * x + b
    return _worked(
        (
            f"Solve for x: {a}x + {b} = {c}x + {d}.",
            f"For which x are {a}x + {b} and {c}x + {d} equal?",
        ),
        f"{a}x - {c}x = {d} - {b}, so {a - c}x = {d - b} and x = {d - b}/{a - c}.",
        x,
    )


def _draw_linear(rng: random.Random) -> dict[str, int]:
    c = rng.randint(2, 9)
    return {"a": c + rng.randint(2, 12), "b": rng.randint(1, 60), "c": c, "x": rng.randint(2, 40)}


def _percentage(price: int, off: int, tax: int) -> Question:
    reduced = Fraction(price * (100 - off), 100)
    value = reduced * (100 + tax) / 100
    return _worked(
        (
            f"A coat costs {price} euros. It is reduced by {off} percent, and then {tax} percent tax is added. "
            "What is the final price in euros?",
            f"The price of {price} euros falls by {off} percent; the new price then rises by {tax} percent. "
            "How many euros is it in the end?",
        ),
        f"{price} × {100 - off}/100 = {number(reduced)}, and {number(reduced)} × {100 + tax}/100 = {number(value)}.",
        value,
        "euros",
    )


def _draw_percentage(rng: random.Random) -> dict[str, int]:
    return {"price": rng.randint(4, 90) * 5, "off": rng.randint(2, 60), "tax": rng.randint(2, 25)}


def _rates(first: int, second: int) -> Question:
    value = Fraction(first * second, first + second)
    return _worked(
        (
            f"One pump fills a tank in {first} hours, another in {second} hours. How many hours do both take together?",
            f"Alone, one worker needs {first} hours for a job and another {second} hours. "
            "In how many hours do they finish it together?",
        ),
        f"Together they do 1/{first} + 1/{second} = {first + second}/{first * second} in an hour, "
        f"so they take {first * second}/{first + second} hours.",
        value,
        "hours",
    )


def _draw_rates(rng: random.Random) -> dict[str, int]:
    first = rng.randint(2, 60)
    return {"first": first, "second": first + rng.randint(1, 60)}


def _system(x: int, y: int, a: int, b: int) -> Question:
    return _worked(
        (
            f"{a}x + y = {a * x + y} and x + {b}y = {x + b * y}. What is x + y?",
            f"Two numbers x and y satisfy {a}x + y = {a * x + y} and x + {b}y = {x + b * y}. Find their sum.",
        ),
        f"From the first y = {a * x + y} - {a}x. In the second: x + {b}({a * x + y} - {a}x) = {x + b * y}, "
        f"so {a * b - 1}x = {b * (a * x + y) - x - b * y} and x = {x}; then y = {y} and x + y = {x + y}.",
        x + y,
    )


def _draw_system(rng: random.Random) -> dict[str, int]:
    return {"x": rng.randint(2, 30), "y": rng.randint(2, 30), "a": rng.randint(2, 9), "b": rng.randint(2, 9)}


def _series(first: int, step: int, count: int) -> Question:
    last = first + (count - 1) * step
    value = Fraction(count * (first + last), 2)
    return _worked(
        (
            f"What is the sum of the first {count} terms of the arithmetic sequence {first}, {first + step}, "
            f"{first + 2 * step}, …?",
            f"An arithmetic sequence begins with {first} and its terms differ by {step}. "
            f"Find the sum of its first {count} terms.",
        ),
        f"The last term is {first} + {count - 1} × {step} = {last}; the sum is {count} × ({first} + {last})/2.",
        value,
    )


def _draw_series(rng: random.Random) -> dict[str, int]:
    return {"first": rng.randint(1, 40), "step": rng.randint(2, 15), "count": rng.randint(8, 60)}


def _remainder(base: int, power: int, modulus: int) -> Question:
    value = pow(base, power, modulus)
    return _worked(
        (
            f"What is the remainder when {base}^{power} is divided by {modulus}?",
            f"Find {base}^{power} modulo {modulus}.",
        ),
        f"By repeated squaring modulo {modulus}: {base}^{power // 2} leaves {pow(base, power // 2, modulus)}, so "
        f"{base}^{power - power % 2} leaves {pow(base, power - power % 2, modulus)} and {base}^{power} leaves {value}.",
        value,
    )


def _draw_remainder(rng: random.Random) -> dict[str, int]:
    return {"base": rng.randint(2, 30), "power": rng.randint(5, 90), "modulus": rng.randint(7, 97)}


def _kinematics(speed: int, acceleration: int, time: int) -> Question:
    value = speed * time + Fraction(acceleration * time * time, 2)
    return _worked(
        (
            f"A car moves at {speed} m/s and then accelerates at {acceleration} m/s² for {time} s. "
            "How many metres does it cover in that time?",
            f"What distance in metres does a body cover in {time} s that starts with {speed} m/s and has the constant "
            f"acceleration {acceleration} m/s²?",
        ),
        f"s = v·t + a·t²/2 = {speed} × {time} + {acceleration} × {time}²/2.",
        value,
        "m",
    )


def _draw_kinematics(rng: random.Random) -> dict[str, int]:
    return {"speed": rng.randint(1, 40), "acceleration": rng.randint(1, 12), "time": rng.randint(2, 30)}


def _ohm(voltage: int, first: int, second: int) -> Question:
    value = Fraction(1000 * voltage, first + second)
    return _worked(
        (
            f"Resistors of {first} Ω and {second} Ω are in series with a source of {voltage} V. "
            "What is the current in milliamperes?",
            f"A source of {voltage} V drives a current through {first} Ω and {second} Ω in series. "
            "How many milliamperes flow?",
        ),
        f"R = {first} Ω + {second} Ω = {first + second} Ω; I = U/R = {voltage}/{first + second} A = "
        f"{number(value)} mA.",
        value,
        "mA",
    )


def _draw_ohm(rng: random.Random) -> dict[str, int]:
    # Sums of resistances that divide 1000 keep the answer a decimal that ends.
    total = rng.choice((50, 80, 100, 125, 160, 200, 250, 400, 500, 625, 800, 1000))
    first = rng.randint(1, total // 2)
    return {"voltage": rng.randint(2, 48), "first": first, "second": total - first}


# Name in the question, name of the target, how many of the target one is.
_UNITS: tuple[tuple[str, str, Fraction], ...] = (
    ("km/h", "m/s", Fraction(5, 18)),
    ("m/s", "km/h", Fraction(18, 5)),
    ("hours", "seconds", Fraction(3600)),
    ("square metres", "square centimetres", Fraction(10000)),
    ("litres", "cubic centimetres", Fraction(1000)),
    ("kilowatt-hours", "megajoules", Fraction(18, 5)),
    ("grams per cubic centimetre", "kilograms per cubic metre", Fraction(1000)),
    ("bar", "kilopascals", Fraction(100)),
)


def _conversion(unit: int, tenths: int) -> Question:
    source, target, factor = _UNITS[unit]
    amount = Fraction(tenths, 10)
    return _worked(
        (
            f"Convert {number(amount)} {source} to {target}.",
            f"How many {target} are {number(amount)} {source}?",
        ),
        f"1 {source} = {number(factor)} {target}, so {number(amount)} × {number(factor)} = {number(amount * factor)}.",
        amount * factor,
        target,
    )


def _draw_conversion(rng: random.Random) -> dict[str, int]:
    unit = rng.randrange(len(_UNITS))
    # 36 tenths of a km/h are one m/s.
    return {"unit": unit, "tenths": rng.randint(1, 400) * (9 if unit == 0 else 1)}


def _density(mass: int, volume: int, factor: int) -> Question:
    value = Fraction(mass * factor, volume)
    return _worked(
        (
            f"A sample of {volume} cm³ has a mass of {mass} g. What is the mass in grams of {factor} cm³ of it?",
            f"If {volume} cm³ of a substance weigh {mass} g, how many grams do {factor} cm³ weigh?",
        ),
        f"The density is {mass}/{volume} g/cm³; {factor} × {mass}/{volume} = {number(value)}.",
        value,
        "g",
    )


def _draw_density(rng: random.Random) -> dict[str, int]:
    return {
        "mass": rng.randint(5, 200),
        "volume": rng.choice((2, 4, 5, 8, 10, 16, 20, 25)),
        "factor": rng.randint(3, 60),
    }


def _half_life(amount: int, period: int, halvings: int) -> Question:
    value = Fraction(amount, 2**halvings)
    return _worked(
        (
            f"A substance has a half-life of {period} days. How many milligrams of {amount} mg are left after "
            f"{period * halvings} days?",
            f"Of {amount} mg of an isotope with a half-life of {period} days, how many milligrams remain after "
            f"{period * halvings} days?",
        ),
        f"{period * halvings}/{period} = {halvings} half-lives; {amount}/2^{halvings} = {number(value)}.",
        value,
        "mg",
    )


def _draw_half_life(rng: random.Random) -> dict[str, int]:
    return {"amount": rng.randint(2, 90) * 8, "period": rng.randint(2, 40), "halvings": rng.randint(2, 6)}


def _code(ask: Sequence[str], program: str, function: str, calls: Sequence[tuple[tuple[Any, ...], Any]]) -> Question:
    tests = "".join(
        f"assert {function}({', '.join(map(repr, arguments))}) == {wanted!r}\n" for arguments, wanted in calls
    )
    return Question(ask, program, tests=tests)


def _lists(*parts: int) -> list[list[int]]:
    # Inputs that follow from the numbers of the question, so that its tests do too.
    rng = row_random(0, "quantities", *parts)
    return [[], [0], *([rng.randint(-30, 30) for _ in range(length)] for length in (3, 5, 8))]


def _multiples(a: int, b: int) -> Question:
    return _code(
        (
            f"Write a Python function `sum_multiples(n)` that returns the sum of all integers from 1 to n, n included, "
            f"that are divisible by {a} or by {b}.",
            f"Define `sum_multiples(n)` in Python: the sum of the multiples of {a} or {b} among 1, …, n.",
        ),
        f"def sum_multiples(n):\n    return sum(k for k in range(1, n + 1) if k % {a} == 0 or k % {b} == 0)\n",
        "sum_multiples",
        [((n,), sum(k for k in range(1, n + 1) if k % a == 0 or k % b == 0)) for n in (0, a - 1, a * b, 100, 1000)],
    )


def _draw_multiples(rng: random.Random) -> dict[str, int]:
    a = rng.randint(2, 40)
    return {"a": a, "b": a + rng.randint(1, 40)}


def _affine(scale: int, shift: int) -> Question:
    return _code(
        (
            f"Write a Python function `rescale(values)` that returns a new list in which every number of the list "
            f"`values` is multiplied by {scale} and then increased by {shift}.",
            f"Define `rescale(values)` in Python, which maps each number v of a list to {scale} * v + {shift} "
            "and returns the new list.",
        ),
        f"def rescale(values):\n    return [{scale} * value + {shift} for value in values]\n",
        "rescale",
        [((values,), [scale * value + shift for value in values]) for values in _lists(scale, shift)],
    )


def _draw_affine(rng: random.Random) -> dict[str, int]:
    return {"scale": rng.randint(2, 40), "shift": rng.randint(1, 60)}


def _clamp(low: int, width: int) -> Question:
    high = low + width
    return _code(
        (
            f"Write a Python function `clamp(values)` that returns a new list in which every number below {low} is "
            f"replaced by {low} and every number above {high} by {high}.",
            f"Define `clamp(values)` in Python: a copy of a list of numbers with each limited to {low} to {high}.",
        ),
        f"def clamp(values):\n    return [min(max(value, {low}), {high}) for value in values]\n",
        "clamp",
        [((values,), [min(max(value, low), high) for value in values]) for values in _lists(low, width)],
    )


def _draw_clamp(rng: random.Random) -> dict[str, int]:
    return {"low": rng.randint(-25, 10), "width": rng.randint(2, 40)}


def _caesar(step: int, keep: int) -> Question:
    def shift(word: str) -> str:
        moved = ((ord(letter) - 97 + step) % 26 + 97 for letter in word[keep:])
        return word[:keep] + "".join(map(chr, moved))

    words = ("", "a", "xyz", "abcdefghij", "thequickbrownfoxjumpsoverthelazydog" * 2)
    return _code(
        (
            f"Write a Python function `encode(word)` for words of lower-case letters a to z. It leaves the first "
            f"{keep} letters as they are and replaces every other letter by the one {step} places later in the "
            "alphabet, going on at a after z.",
            f"Define `encode(word)` in Python: from letter {keep + 1} of the word on, shift each lower-case letter by "
            f"{step} places in the alphabet, with a after z; the letters before stay.",
        ),
        "def encode(word):\n"
        f"    moved = (chr((ord(letter) - 97 + {step}) % 26 + 97) for letter in word[{keep}:])\n"
        f'    return word[:{keep}] + "".join(moved)\n',
        "encode",
        [((word,), shift(word)) for word in words],
    )


def _draw_caesar(rng: random.Random) -> dict[str, int]:
    return {"step": rng.randint(1, 25), "keep": rng.randint(1, 60)}


def _windows(size: int, least: int) -> Question:
    def count(values: list[int]) -> int:
        return sum(sum(values[at : at + size]) >= least for at in range(len(values) - size + 1))

    rng = row_random(0, "quantities", size, least)
    inputs = [
        [],
        [0] * (size - 1) + [least],
        [least - 1] + [0] * (size - 1),
        *([rng.randint(-9, 30) for _ in range(length)] for length in (12, 20)),
    ]
    return _code(
        (
            f"Write a Python function `count_windows(values)` that returns how many runs of {size} neighbouring "
            f"numbers of the list `values` have a sum of at least {least}.",
            f"Define `count_windows(values)` in Python: the number of positions at which {size} consecutive numbers of "
            f"a list add up to {least} or more.",
        ),
        "def count_windows(values):\n"
        f"    sums = (sum(values[at : at + {size}]) for at in range(len(values) - {size} + 1))\n"
        f"    return sum(total >= {least} for total in sums)\n",
        "count_windows",
        [((values,), count(values)) for values in inputs],
    )


def _draw_windows(rng: random.Random) -> dict[str, int]:
    return {"size": rng.randint(2, 9), "least": rng.randint(1, 120)}


def _digits(base: int, divisor: int) -> Question:
    def total(n: int) -> int:
        found = 0
        while n:
            n, digit = divmod(n, base)
            found += digit
        return found % divisor

    return _code(
        (
            f"Write a Python function `check_digit(n)` that returns the sum of the digits of the non-negative integer "
            f"n in base {base}, modulo {divisor}.",
            f"Define `check_digit(n)` in Python: write n in base {base}, add the digits, and return the remainder of "
            f"the sum when divided by {divisor}.",
        ),
        "def check_digit(n):\n"
        "    total = 0\n"
        "    while n:\n"
        f"        n, digit = divmod(n, {base})\n"
        "        total += digit\n"
        f"    return total % {divisor}\n",
        "check_digit",
        [((n,), total(n)) for n in (0, base - 1, base, 12345, 987654321)],
    )


def _draw_digits(rng: random.Random) -> dict[str, int]:
    return {"base": rng.randint(2, 36), "divisor": rng.randint(2, 40)}


FAMILIES: dict[str, Family] = {
    "linear-equations": Family("math", _draw_linear, _linear),
    "percentages": Family("math", _draw_percentage, _percentage),
    "rates": Family("math", _draw_rates, _rates),
    "systems": Family("math", _draw_system, _system),
    "series": Family("math", _draw_series, _series),
    "remainders": Family("math", _draw_remainder, _remainder),
    "kinematics": Family("science", _draw_kinematics, _kinematics),
    "ohms-law": Family("science", _draw_ohm, _ohm),
    "unit-conversion": Family("science", _draw_conversion, _conversion),
    "density": Family("science", _draw_density, _density),
    "half-life": Family("science", _draw_half_life, _half_life),
    "sum-multiples": Family("code", _draw_multiples, _multiples),
    "rescale": Family("code", _draw_affine, _affine),
    "clamp": Family("code", _draw_clamp, _clamp),
    "encode": Family("code", _draw_caesar, _caesar),
    "count-windows": Family("code", _draw_windows, _windows),
    "check-digit": Family("code", _draw_digits, _digits),
}


def key_of(family: str, numbers: dict[str, int]) -> str:
    """Return the held-out key of a question: its family and its numbers."""
    return f"{family}:{json.dumps(numbers, sort_keys=True)}"


def propose(family: str, split: str, seed: int, index: int) -> Candidate:
    """Return the question number `index` of a family: the same arguments give the same question everywhere."""
    domain, draw, pose = FAMILIES[family]
    rng = row_random(seed, "quantities", split, family, index)
    while split_of(key_of(family, numbers := draw(rng))) != split:
        pass
    question = pose(**numbers)
    meta = {
        "family": family,
        "parameters": numbers,
        "split": split,
        "held_out": [key_of(family, numbers)],
        "domain": domain,
        "answer": question.answer,
        "tests": question.tests,
        "solution": question.solution,
        "source": "quantities",
    }
    asked = rng.choice(list(question.ask))
    return Candidate(family, {}, LICENCE, ORIGIN, meta, question=asked, validate=False)


class Quantities:
    """Generated questions; a family has hundreds of each split."""

    name: Literal["quantities"] = "quantities"

    def families(self) -> tuple[str, ...]:
        """Return the names in :data:`FAMILIES`."""
        return tuple(FAMILIES)

    def generate(self, split: str, seed: int, families: tuple[str, ...]) -> Iterator[Candidate]:
        """Yield questions family by family in turn, none with the numbers of an earlier one, while there are any."""
        seen: set[str] = set()
        misses = dict.fromkeys(families, 0)
        for index in itertools.count():
            left = [family for family in families if misses[family] < _MOST_MISSES]
            if not left:
                return
            for family in left:
                candidate = propose(family, split, seed, index)
                (key,) = candidate.meta["held_out"]
                if key in seen:
                    misses[family] += 1
                    continue
                misses[family] = 0
                seen.add(key)
                yield candidate


SOURCE = Quantities()


def open_source(cache: Path) -> Quantities:
    """Return the source; it needs nothing from `cache`."""
    return SOURCE
