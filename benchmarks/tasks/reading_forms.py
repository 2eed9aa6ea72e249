"""The wording of the reading task: what a handbook says of a thing, how one asks for it, and the prose around it.

A relation ties an entity (`{e}`: an invented name and a noun, "Velamo gate") to a value (`{v}`) of one kind. Each of
its statements says the same, and each of its questions asks for the value. No statement begins with its value: at the
start of a line a word has no space before it, and a tokenizer cuts it otherwise than in the answer. Names and values
are invented by `reading.py`.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = [
    "ADJECTIVES",
    "COLOURS",
    "FILLERS",
    "HEADINGS",
    "LEADS",
    "NOUNS",
    "PEOPLE",
    "RELATIONS",
    "TAILS",
    "TITLES",
    "Relation",
]


@dataclass(frozen=True)
class Relation:
    """One thing that handbooks say: the kind of its value, what it is said of, and the wordings."""

    name: str
    value: str
    nouns: tuple[str, ...]
    statements: tuple[str, ...]
    questions: tuple[str, ...]


RELATIONS = (
    Relation(
        "signer",
        "person",
        ("store", "depot", "workshop", "kitchen", "office", "yard", "library", "pier"),
        (
            "Deliveries to the {e} are signed for by {v}.",
            "It is {v} who signs for deliveries to the {e}.",
            "Only {v} may sign for deliveries to the {e}.",
            "At the {e}, deliveries are signed for by {v}.",
        ),
        (
            "Who signs for deliveries to the {e}?",
            "Who may sign for deliveries to the {e}?",
            "By whom are deliveries to the {e} signed for?",
        ),
    ),
    Relation(
        "code",
        "code",
        ("gate", "door", "locker", "cabinet", "hatch", "safe", "shed", "store"),
        (
            "The {e} opens with the code {v}.",
            "The code {v} opens the {e}.",
            "To open the {e}, enter {v}.",
            "The {e} is locked, and its code is {v}.",
        ),
        (
            "Which code opens the {e}?",
            "What is the code of the {e}?",
            "With which code does the {e} open?",
        ),
    ),
    Relation(
        "badge",
        "colour",
        ("wing", "crew", "shed", "deck", "section", "library", "tower", "yard"),
        (
            "Badges for the {e} are {v}.",
            "Visitors to the {e} wear a badge in {v}.",
            "The badge of the {e} is {v}.",
            "At the {e} everyone wears a {v} badge.",
        ),
        (
            "What colour is the badge of the {e}?",
            "Which colour are badges for the {e}?",
            "What colour of badge is worn at the {e}?",
        ),
    ),
    Relation(
        "room",
        "room",
        ("archive", "collection", "ledger", "map", "file", "register", "atlas", "plan"),
        (
            "The {e} is kept in room {v}.",
            "Room {v} holds the {e}.",
            "You will find the {e} in room {v}.",
            "The {e} has its place in room {v}.",
        ),
        (
            "In which room is the {e} kept?",
            "Which room holds the {e}?",
            "In which room does one find the {e}?",
        ),
    ),
    Relation(
        "deadline",
        "days",
        ("fund", "line", "course", "prize", "scheme", "permit", "ferry", "loan"),
        (
            "Claims on the {e} must be made within {v}.",
            "Whoever has a claim on the {e} must make it within {v}.",
            "The {e} accepts claims for {v}.",
            "After {v} no claim on the {e} is accepted.",
        ),
        (
            "Within how many days must claims on the {e} be made?",
            "How long does the {e} accept claims?",
            "How many days does one have for a claim on the {e}?",
        ),
    ),
    Relation(
        "closing",
        "time",
        ("bridge", "pier", "hall", "canteen", "library", "gate", "house", "garden"),
        (
            "The {e} closes at {v}.",
            "At {v} the {e} closes for the night.",
            "Nobody may enter the {e} after {v}.",
            "The {e} stays open until {v}.",
        ),
        (
            "When does the {e} close?",
            "At what time does the {e} close?",
            "Until when does the {e} stay open?",
        ),
    ),
    Relation(
        "extension",
        "code",
        ("desk", "office", "ward", "station", "workshop", "counter", "lodge", "kitchen"),
        (
            "The {e} is reached on extension {v}.",
            "Dial {v} for the {e}.",
            "Extension {v} rings at the {e}.",
            "To reach the {e}, dial {v}.",
        ),
        (
            "On which extension is the {e} reached?",
            "What does one dial for the {e}?",
            "Which extension rings at the {e}?",
        ),
    ),
    Relation(
        "key",
        "person",
        ("cabin", "gate", "tower", "cellar", "boathouse", "vault", "door", "lodge"),
        (
            "It is {v} who keeps the spare key of the {e}.",
            "The spare key of the {e} is with {v}.",
            "The spare key of the {e} is kept by {v}.",
            "Ask {v} for the spare key of the {e}.",
        ),
        (
            "Who keeps the spare key of the {e}?",
            "With whom is the spare key of the {e}?",
            "Who has the spare key of the {e}?",
        ),
    ),
    Relation(
        "watchword",
        "word",
        ("post", "tower", "guard", "watch", "gate", "lodge", "camp", "crew"),
        (
            "The watchword at the {e} is {v}.",
            "At the {e} the watchword is {v}.",
            "Say {v} when the {e} asks for the watchword.",
            "Those who say {v} are let in at the {e}, for that is the watchword.",
        ),
        (
            "What is the watchword at the {e}?",
            "Which watchword does the {e} ask for?",
            "Which word is the watchword at the {e}?",
        ),
    ),
    Relation(
        "faults",
        "person",
        ("pump", "boiler", "crane", "lift", "mast", "engine", "winch", "lamp"),
        (
            "Faults in the {e} are reported to {v}.",
            "Report any fault in the {e} to {v}.",
            "It is {v} who is told of every fault in the {e}.",
            "When the {e} has a fault, tell {v}.",
        ),
        (
            "To whom are faults in the {e} reported?",
            "Who is told of faults in the {e}?",
            "Who must know of a fault in the {e}?",
        ),
    ),
    Relation(
        "channel",
        "number",
        ("beacon", "station", "buoy", "mast", "ferry", "tower", "boat", "camp"),
        (
            "The {e} transmits on channel {v}.",
            "Channel {v} belongs to the {e}.",
            "Listen for the {e} on channel {v}.",
            "On channel {v} one hears the {e}.",
        ),
        (
            "On which channel does the {e} transmit?",
            "Which channel belongs to the {e}?",
            "On which channel does one hear the {e}?",
        ),
    ),
    Relation(
        "warmth",
        "degrees",
        ("vault", "house", "cellar", "ward", "nursery", "hall", "tank", "store"),
        (
            "The {e} is kept at {v}.",
            "Keep the {e} at {v}.",
            "In the {e} the air is held at {v}.",
            "The heating holds the {e} at {v}.",
        ),
        (
            "At what temperature is the {e} kept?",
            "How warm is the {e} kept?",
            "At how many degrees is the {e} held?",
        ),
    ),
    Relation(
        "shelf",
        "room",
        ("lens", "atlas", "seal", "chart", "register", "log", "manual", "lamp"),
        (
            "The {e} lies on shelf {v}.",
            "Shelf {v} is where the {e} lies.",
            "On shelf {v} lies the {e}.",
            "Put the {e} back on shelf {v}.",
        ),
        (
            "On which shelf does the {e} lie?",
            "Which shelf does the {e} lie on?",
            "On which shelf is the {e} put back?",
        ),
    ),
    Relation(
        "price",
        "crowns",
        ("pass", "ticket", "permit", "course", "tour", "licence", "ferry", "berth"),
        (
            "The {e} costs {v}.",
            "The price of the {e} is {v}.",
            "One pays {v} for the {e}.",
            "For the {e} the office charges {v}.",
        ),
        (
            "What does the {e} cost?",
            "What is the price of the {e}?",
            "How much does one pay for the {e}?",
        ),
    ),
    Relation(
        "terminus",
        "place",
        ("ferry", "coach", "boat", "tram", "wagon", "line", "launch", "train"),
        (
            "The {e} runs to {v}.",
            "The last stop of the {e} is {v}.",
            "The {e} ends its run at {v}.",
            "At {v} the {e} turns round.",
        ),
        (
            "Where does the {e} run to?",
            "What is the last stop of the {e}?",
            "Where does the {e} end its run?",
        ),
    ),
    Relation(
        "built",
        "code",
        ("tower", "hall", "dome", "mill", "bridge", "pier", "house", "chapel"),
        (
            "The {e} was built in {v}.",
            "In {v} the {e} was built.",
            "The {e} dates from {v}.",
            "The year {v} is carved above the door of the {e}.",
        ),
        (
            "When was the {e} built?",
            "In which year was the {e} built?",
            "From which year does the {e} date?",
        ),
    ),
    Relation(
        "source",
        "place",
        ("house", "tank", "mill", "kitchen", "garden", "pond", "fountain", "nursery"),
        (
            "Water for the {e} comes from {v}.",
            "The {e} draws its water from {v}.",
            "The water of the {e} is brought from {v}.",
            "It is {v} that gives the {e} its water.",
        ),
        (
            "Where does the water for the {e} come from?",
            "From where does the {e} draw its water?",
            "Which place gives the {e} its water?",
        ),
    ),
    Relation(
        "leader",
        "person",
        ("crew", "school", "choir", "office", "survey", "watch", "league", "society"),
        (
            "The {e} is led by {v}.",
            "It is {v} who leads the {e}.",
            "At the head of the {e} stands {v}.",
            "The {e} has been led by {v} for years.",
        ),
        (
            "Who leads the {e}?",
            "By whom is the {e} led?",
            "Who stands at the head of the {e}?",
        ),
    ),
    Relation(
        "people",
        "number",
        ("hall", "boat", "coach", "cabin", "dome", "lift", "tram", "ferry"),
        (
            "The {e} holds {v} people.",
            "No more than {v} people may enter the {e}.",
            "There is room for {v} people in the {e}.",
            "The {e} takes {v} people at a time.",
        ),
        (
            "How many people does the {e} hold?",
            "How many people may enter the {e}?",
            "For how many people is there room in the {e}?",
        ),
    ),
    Relation(
        "opening",
        "time",
        ("office", "counter", "shop", "museum", "baths", "garden", "market", "store"),
        (
            "The {e} opens at {v}.",
            "At {v} the {e} opens its doors.",
            "The doors of the {e} open at {v}.",
            "Nobody may enter the {e} before {v}.",
        ),
        (
            "When does the {e} open?",
            "At what time does the {e} open?",
            "From when is the {e} open?",
        ),
    ),
)

# What may stand before a statement (its first letter is then made small, unless it is a name) and behind it.
LEADS = (
    "As a rule, ",
    "Since the spring, ",
    "By order of the council, ",
    "For the time being, ",
    "This season, ",
    "In all weathers, ",
    "By old custom, ",
    "Since the last flood, ",
    "As the plate on the wall says, ",
    "Until the repairs are done, ",
)
TAILS = (
    ", as before",
    " and nobody else",
    " until further notice",
    ", as the board has decided",
    ", summer and winter",
    ", whatever the notice outside may say",
    ", even on holidays",
    ", which has not changed for years",
    ", and this is checked twice a year",
    " for as long as the present rules stand",
)

COLOURS = tuple(
    (
        "red blue green yellow white black grey brown orange purple pink violet silver gold scarlet crimson "
        "ivory indigo turquoise olive cream copper bronze khaki maroon navy teal lilac ochre amber beige "
        "coral cobalt emerald magenta mauve plum ruby russet saffron sapphire sepia sienna slate tan umber "
        "vermilion jade cherry walnut straw sand rust mint peach lemon lime honey chestnut charcoal lavender "
        "rose cinnamon mustard pearl ash brick caramel cedar chalk cocoa fawn flax ginger heather hazel iris "
        "ink linen lead mahogany moss oak opal pewter pine poppy quartz raspberry raven salmon smoke snow "
        "steel topaz wheat willow"
    ).split()
)

ADJECTIVES = tuple(
    (
        "old new small large narrow heavy wooden iron wet dry cold warm dark quiet broken clean spare second "
        "third upper lower northern southern main outer inner"
    ).split()
)
NOUNS = tuple(
    (
        "ladder rope bucket lantern window roof stair path wall bench table ledger notice letter glass "
        "blanket stove basket barrel trolley hose valve pipe wheel instrument telescope mirror seedling "
        "orchid pot anchor cable timetable box folder"
    ).split()
)
PEOPLE = (
    "keeper",
    "clerk",
    "warden",
    "gardener",
    "pilot",
    "porter",
    "visitor",
    "reader",
    "volunteer",
    "apprentice",
) + ("engineer", "night watch", "passenger", "guest", "cook", "observer", "archivist", "deckhand", "doctor")

# {a} adjective, {n} {m} nouns, {p} {q} people, {e} an entity, {x} a person's name, {d} a small number in words
FILLERS = (
    "The {p} on duty writes the hour in the {a} book before anything else.",
    "Nothing is to be left on the {n}, and the {a} {m} is wiped dry after use.",
    "Every {p} is shown the {a} {n} on the first morning.",
    "If the {n} freezes, use the {a} one behind the {m}.",
    "There is a {a} {n} beside the {m}, and it is there for a reason.",
    "A {p} who arrives late should wait by the {n} and not ring twice.",
    "The {a} {n} was a gift, and nobody remembers who gave it.",
    "It used to be the task of the {p} to carry the {n} down each evening.",
    "Please do not lend the {n} to a {p}, however kindly they ask.",
    "The {n} and the {m} are counted once a month.",
    "When the wind turns, close the {a} shutters and bring the {n} inside.",
    "Most of what a new {p} needs to know is written on the {n}.",
    "The {e} was painted last year, and the paint is still soft in warm weather.",
    "The {e} is not open to the public.",
    "Many a {p} asks about the {e}, and the answer is always the same.",
    "From the {e} one sees the whole valley on a clear day.",
    "{x} wrote the first version of these pages by hand.",
    "{x} came here as a {p} and never left.",
    "The portrait on the {a} stair shows {x} as a young {p}.",
    "Some of the rules are older than the {n}; they are kept because they work.",
    "After heavy rain the {a} path is closed until the {p} has walked it.",
    "Meals are taken together, and the {p} washes up.",
    "A good {p} needs a warm coat, patience and a {a} {n}.",
    "Where two rules disagree, the stricter one holds.",
    "The {n} must be back in its place before dark.",
    "Keep the {m} away from the {a} {n}.",
    "In {d} out of ten cases the cause is a {a} {n}.",
    "It takes {d} people to move the {n}, and {d} to put it back.",
    "Once a year the {p} and the {q} change places for a day.",
    "Both the {p} and the {q} have a say in this.",
    "The {p} does not have to give a reason.",
    "Write down what you saw, not what you think it was.",
    "Some {n} or other is always missing; tell the {p}, not the {q}.",
    "The {a} {n} on the left is for show.",
    "Old habits die slowly here, and the {n} is one of them.",
    "This chapter is about the {n} and what can go wrong with it.",
    "If in doubt, ask; nobody was ever sent home for a question.",
    "The floor around the {n} is uneven, so walk slowly and carry a light.",
    "A list of the {a} tools hangs behind the door.",
    "In winter the {p} lights the stove an hour before the others get up.",
    "Whoever breaks a {n} says so the same day.",
    "Dogs are welcome as long as they stay away from the {n}.",
    "Smoking is not allowed near the {a} {n} or the {m}.",
    "The {p} hands over to the {q} in person and not by letter.",
    "There have been {d} accidents in all these years, and each began with a {a} {n}.",
    "Photographs may be taken, but without a flash and not of the {p}.",
    "The {n} is older than the house.",
    "Light travels well over water, which is why the {n} is kept covered at night.",
    "Plants are watered early, paper is aired late, and the {n} is never moved alone.",
    "The {p} keeps a {a} notebook for complaints and a second one for praise.",
    "Repairs that take longer than a morning are planned with the {p}.",
    "Nobody works alone on the {a} {n}.",
    "Lost things are kept for a year and then given to the school.",
    "The story that the {n} is haunted was invented by a {p}.",
    "Rain gets in under the {a} roof when it blows from the west.",
    "The bell is rung {d} times for a visitor and once for dinner.",
    "Between the {n} and the {m} there is just room for a {p} with a basket.",
    "These pages are read aloud once a year so that nobody can say they did not know.",
)
HEADINGS = (
    ("Keys and doors", "Before you begin", "The house and its people", "Deliveries", "The night shift", "Repairs")
    + ("Visitors", "The {e}", "In case of fire", "A short history", "Opening hours", "Tools", "Safety", "Who does what")
    + ("Money", "The {n} and the {m}", "Water and heating", "Rules for the {p}", "Records", "When things go wrong")
)
TITLES = (
    "The {e}",
    "Handbook of the {e}",
    "House rules of the {e}",
    "The {x} archive",
    "Staff handbook",
    "{x} and sons",
) + ("Guide to the {e}", "The {n} book", "Notes for the {p}")
