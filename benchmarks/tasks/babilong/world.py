"""Stories like those of six of bAbI's tasks, drawn by ourselves, so that they are there without files.

    qa1  Mary moved to the bathroom.                                     Where is Mary?
    qa2  Mary took the milk. Mary moved to the garden.                   Where is the milk?
    qa4  The office is north of the kitchen.                             What is north of the kitchen?
    qa5  Fred gave the milk to Mary.                                     Who gave the milk to Mary?
    qa6  Mary moved to the bathroom.                                     Is Mary in the garden?
    qa7  Mary took the milk. Mary took the apple. Mary dropped the milk. How many objects is Mary carrying?

A quarter of all stories, by their words, is for testing, and never drawn for training.
"""

from __future__ import annotations

import hashlib
import operator
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from farfield.benchmarks.tasks.babilong.stories import PLACES, Story
from farfield.benchmarks.tasks.sample import Split

__all__ = ["WORLDS", "draw_story", "vocabulary", "words_of"]

PEOPLE = ("Mary", "John", "Sandra", "Daniel")
GIVERS = ("Bill", "Fred", "Jeff", "Mary")
THINGS = ("apple", "football", "milk")
MOVES = ("moved to", "went to", "travelled to", "went back to", "journeyed to")
TAKES = ("took", "got", "picked up", "grabbed")
DROPS = ("dropped", "left", "discarded", "put down")
GIVES = ("gave", "handed", "passed")
OPPOSITE = {"north": "south", "south": "north", "east": "west", "west": "east"}
COUNTS = ("none", "one", "two", "three")
OTHER_WORDS = "the of to is in there how many objects carrying where what who did give no yes . ?"
MOST = 1000  # draws until a story belongs to a split: a quarter of them does


@dataclass
class World:
    """Where people and things are, who carries what, and the facts that tell it.

    moves: by person, the numbers of the facts that tell where they went
    about: by person and by thing, the numbers of the facts about taking and dropping
    """

    rng: np.random.Generator
    facts: list[str] = field(default_factory=list)
    places: dict[str, str] = field(default_factory=dict)
    holders: dict[str, str] = field(default_factory=dict)
    lying: dict[str, str] = field(default_factory=dict)
    moves: dict[str, list[int]] = field(default_factory=dict)
    about: dict[str, list[int]] = field(default_factory=dict)

    def pick(self, options: Sequence[str]) -> str:
        return options[int(self.rng.integers(len(options)))]

    def move(self) -> None:
        person, place = self.pick(PEOPLE), self.pick(PLACES)
        self.places[person] = place
        self.moves.setdefault(person, []).append(len(self.facts))
        self.facts.append(f"{person} {self.pick(MOVES)} the {place}.")

    def handle(self) -> None:
        """A thing changes hands: it is dropped if it is held, else taken by somebody who can be where it is."""
        thing = self.pick(THINGS)
        if thing in self.holders:
            person = self.holders.pop(thing)
            self.lying[thing] = self.places[person]
            fact = f"{person} {self.pick(DROPS)} the {thing}."
        else:
            near = [one for one, place in self.places.items() if self.lying.get(thing, place) == place]
            if not near:
                return
            person = self.pick(near)
            self.holders[thing] = person
            fact = f"{person} {self.pick(TAKES)} the {thing} there."
        for one in (person, thing):
            self.about.setdefault(one, []).append(len(self.facts))
        self.facts.append(fact)

    def story(self, question: str, answer: str, support: Iterable[int]) -> Story:
        return Story(tuple(self.facts), question, answer, tuple(sorted(set(support))))


def _qa1(world: World) -> Story:
    for _ in range(int(world.rng.integers(2, 11))):
        world.move()
    person = world.pick(list(world.places))
    return world.story(f"Where is {person}?", world.places[person], world.moves[person][-1:])


def _qa2(world: World) -> Story:
    """A thing is where its holder went last, or where it was dropped."""
    world.move()
    world.handle()  # somebody is somewhere, and nothing lies anywhere yet: something is taken
    for _ in range(int(world.rng.integers(2, 14))):
        world.move() if world.rng.random() < 0.6 else world.handle()
    thing = world.pick([one for one in THINGS if one in world.about])
    last = world.about[thing][-1]
    person = world.facts[last].split()[0]
    held = thing in world.holders
    move = max(number for number in world.moves[person] if held or number < last)
    answer = world.places[person] if held else world.lying[thing]
    return world.story(f"Where is the {thing}?", answer, (last, move))


def _qa4(world: World) -> Story:
    one, two, three = (PLACES[at] for at in world.rng.permutation(len(PLACES))[:3])
    first, second = world.pick(tuple(OPPOSITE)), world.pick(tuple(OPPOSITE))
    if second == OPPOSITE[first]:
        second = first  # else two places would be on the same side of the second one
    world.facts += [f"The {one} is {first} of the {two}.", f"The {two} is {second} of the {three}."]
    if world.rng.random() < 0.5:
        return world.story(f"What is {first} of the {two}?", one, (0,))
    return world.story(f"What is the {one} {first} of?", two, (0,))


def _qa5(world: World) -> Story:
    """No two gifts have two of giver, thing and taker in common, so that any of them can be asked for."""
    gifts: dict[tuple[str, str, str], int] = {}
    for _ in range(int(world.rng.integers(1, 8))):
        if world.rng.random() < 0.5:
            world.facts.append(f"{world.pick(GIVERS)} {world.pick(MOVES)} the {world.pick(PLACES)}.")
        giver, taker = (GIVERS[at] for at in world.rng.permutation(len(GIVERS))[:2])
        gift = (giver, world.pick(THINGS), taker)
        if all(sum(map(operator.eq, gift, other)) < 2 for other in gifts):
            gifts[gift] = len(world.facts)
            world.facts.append(f"{giver} {world.pick(GIVES)} the {gift[1]} to {taker}.")
    (giver, thing, taker), number = list(gifts.items())[int(world.rng.integers(len(gifts)))]
    questions = {
        f"What did {giver} give to {taker}?": thing,
        f"Who gave the {thing} to {taker}?": giver,
        f"Who did {giver} give the {thing} to?": taker,
    }
    asked = world.pick(list(questions))
    return world.story(asked, questions[asked], (number,))


def _qa6(world: World) -> Story:
    story = _qa1(world)
    person = story.question.removeprefix("Where is ").removesuffix("?")
    place = story.answer if world.rng.random() < 0.5 else world.pick(PLACES)
    return world.story(f"Is {person} in the {place}?", "yes" if place == story.answer else "no", story.support)


def _qa7(world: World) -> Story:
    world.move()
    for _ in range(int(world.rng.integers(3, 15))):
        world.move() if world.rng.random() < 0.4 else world.handle()
    person = world.pick(list(world.places))
    count = COUNTS[sum(holder == person for holder in world.holders.values())]
    return world.story(
        f"How many objects is {person} carrying?", count, world.about.get(person) or world.moves[person][-1:]
    )


WORLDS: dict[str, Callable[[World], Story]] = {
    "qa1": _qa1,
    "qa2": _qa2,
    "qa4": _qa4,
    "qa5": _qa5,
    "qa6": _qa6,
    "qa7": _qa7,
}


def draw_story(task: str, rng: np.random.Generator, split: Split) -> Story:
    """A story of `split`."""
    for _ in range(MOST):
        story = WORLDS[task](World(rng))
        if (_digest(story) % 4 == 0) == (split == "test"):
            return story
    raise AssertionError("no story of this split in a thousand")


def words_of(text: str) -> list[str]:
    """Words and marks of a story, in lower case."""
    return text.lower().replace(".", " .").replace("?", " ?").split()


def vocabulary() -> list[str]:
    """Every word of every story, answers included."""
    groups = (PEOPLE, GIVERS, THINGS, MOVES, TAKES, DROPS, GIVES, tuple(OPPOSITE), COUNTS, PLACES)
    said = " ".join(word for group in groups for word in group)
    return sorted(
        set(words_of(f"{said} the of to is in there how many objects carrying where what who did give no yes . ?"))
    )


def _digest(story: Story) -> int:
    return hashlib.blake2b(repr((story.facts, story.question)).encode(), digest_size=8).digest()[0]
