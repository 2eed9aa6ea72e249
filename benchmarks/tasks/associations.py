"""What a reader has to know to see that a sentence answers a question: clues and what they mean, in families.

    needle     Belumrix rents a room across from the Colosseum.     clue: the Colosseum
    question   Which person lives in Rome?                          meaning: Rome

No word of content stands in both. Each family is cut in two halves, one for training and one for testing.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["FAMILIES", "Family"]


@dataclass(frozen=True)
class Family:
    """Sentences of one kind: `needle` has the fields name and clue, `question` the field meaning.

    pairs: a clue and its meaning a line, each meaning once
    """

    name: str
    needle: str
    question: str
    pairs: str

    @property
    def associations(self) -> tuple[tuple[str, str], ...]:
        """(clue, meaning) of each line."""
        lines = (line.split(" -> ") for line in self.pairs.strip().split("\n"))
        return tuple((clue, meaning) for clue, meaning in lines)


FAMILIES = (
    Family(
        "cities",
        " {name} rents a room across from {clue}.",
        "Which person lives in {meaning}?",
        """
the Colosseum -> Rome
the Eiffel Tower -> Paris
the Brandenburg Gate -> Berlin
the Sagrada Familia -> Barcelona
Buckingham Palace -> London
the Hagia Sophia -> Istanbul
the Parthenon -> Athens
the Golden Gate Bridge -> San Francisco
the Rijksmuseum -> Amsterdam
the Atomium -> Brussels
the Burj Khalifa -> Dubai
the Statue of Liberty -> New York
the Kremlin -> Moscow
the Prado -> Madrid
the Rialto Bridge -> Venice
Table Mountain -> Cape Town
""",
    ),
    Family(
        "meals",
        " At table {name} always turns down {clue}.",
        "Who would never order {meaning}?",
        """
anything with raw fish in it -> sushi
anything with eggs in it -> an omelette
chickpeas in any shape -> hummus
whatever has avocado in it -> guacamole
noodles of buckwheat -> soba
almonds, even ground and sweetened -> marzipan
beetroot, hot or cold -> borscht
aubergines, baked or fried -> moussaka
basil and pine nuts -> pesto
cold tomato and cucumber in a bowl -> gazpacho
beef patties in a bun -> a hamburger
lentils of every colour -> dal
""",
    ),
    Family(
        "trades",
        " {name} spends the whole day {clue}.",
        "Who earns a living as {meaning}?",
        """
drilling and filling teeth -> a dentist
trimming beards and fringes -> a barber
mending taps and leaking pipes -> a plumber
hosing down houses in flames -> a firefighter
bringing babies into the world -> a midwife
steering a yellow car to wherever strangers ask -> a taxi driver
stamping borrowed novels -> a librarian
kneading dough before dawn -> a baker
nailing iron to the hooves of horses -> a farrier
watching stars through a telescope -> an astronomer
putting letters into boxes from door to door -> a postman
marking the spelling of pupils -> a schoolteacher
""",
    ),
    Family(
        "games",
        " {name} came to the club with {clue}.",
        "Which person plays {meaning}?",
        """
a racket and felt balls -> tennis
thirty-two carved pieces, sixteen of them black -> chess
fourteen irons and woods in a bag on wheels -> golf
skates, a stick and a puck -> ice hockey
a willow bat and white pads -> cricket
a bow and a lump of rosin -> the violin
a pair of brushes, two cymbals and a snare -> the drums
heavy balls with holes for three fingers -> tenpin bowling
""",
    ),
    Family(
        "languages",
        " {name} picks up the phone with a cheerful {clue}.",
        "Who grew up speaking {meaning}?",
        """
"buongiorno" -> Italian
"guten Tag" -> German
"bonjour" -> French
"buenos días" -> Spanish
"bom dia" -> Portuguese
"konnichiwa" -> Japanese
"goedemorgen" -> Dutch
"dzień dobry" -> Polish
""",
    ),
)
