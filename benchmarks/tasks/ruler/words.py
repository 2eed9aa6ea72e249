"""Keys, values, names and words, all by arithmetic on an index.

    key      old-harbour                             an adjective and a noun
    number   4823917                                 seven digits
    uuid     8f0e2a31-5c1d-4b7e-9a50-3f6d1c28e7b4    version 4
    name     QWHZT                                   capital letters
    coded    qwhzta                                  small letters
    word     candleharbour                           two words of the lists below, or one of a file of the user's

A quarter of each is for testing, and never comes up in training; of a file of the user's, three quarters.
"""

from __future__ import annotations

import hashlib
import string
import uuid
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from farfield.benchmarks.tasks import wording
from farfield.benchmarks.tasks.sample import Split, hashed
from farfield.config import DataError

__all__ = ["ADJECTIVES", "NOUNS", "WordList", "coded", "draw", "keys", "load_words", "names", "numbers", "uuids"]

ADJECTIVES = (
    *wording.ADJECTIVES,
    *"""
able ample awake bare basic bitter blank bold brave brief bright broad broken busy careful cheap civil clean clear
close common curious damp dark dear deep dense distant double dry dull eastern easy equal exact famous fierce final
fine firm flat foreign formal free fresh full funny glad good grateful green handy happy hard harmless helpful high
honest hungry idle inner kind large lean level light little local loose loud low loyal main major merry mild minor
modern modest neat northern odd open outer plump polite poor pretty private public pure quick rare raw ready rich
rough round rude sad safe sharp short shy simple slim slow small soft sore southern spare special steady stiff
strange strict strong sudden sure sweet swift tame tender thick thin tidy tight tiny tired tough true upper useful
usual vague vast vital warm weak western wet whole wide wild wise worn
""".split(),
)
NOUNS = (
    *wording.NOUNS,
    *"""
actor album alley angle ankle apple apron arch arena artist aunt author autumn axle bacon bamboo banjo banner barn
baron barrel basin beach bean bear bell belt bench berry bicycle bishop blanket blossom bone bonnet book boot border
boulder box bracelet branch brass bread breeze brick broom brother brush bubble buffalo bugle builder bull bullet bush
butter cabbage cabin cable cactus cake calendar camel camera canal canoe cape captain carbon cargo carrot cart cavern
ceiling cellar cello chain chair chalk chapel chapter cheese cherub chest chicken chief chimney chisel cider cigar
cinema circle circus citizen clay cliff clinic clock cloth cloud clover coach coal coast cobbler coffee coin
collar colonel column comb concert cord cork corner cotton couch counter county cradle crane crater crayon cream creek
crew crowd crown crystal cube cupboard curtain cushion custard dagger dairy daisy dancer dawn deer desert desk diamond
diary dinner doll donkey door dove dozen drawer dress drum duck duke dwarf eagle easel echo editor eel elbow elephant
elm ember emperor envelope farmer father ferry fiddle field finger flag flame flask fleet flood floor flour flower
flute fog folder fox frame friend frog frost fruit funnel gallery gallon game garage garlic gate giraffe girl glass
glove goat goose gown grain grape grass gravel guest guide guitar gull hall hamlet handle hare harp hat hatchet hawk
hedge helmet hen herald heron hinge hive honey hood hook horn horse hotel hunter hut ink insect iron jar jelly jewel
judge jug juice jungle kennel key king kitchen kite knife knight knot label lace lady lake lamb lamp lane lark lawn
lawyer leaf leather ledge lemonade lever lily lime linen lion lobster lock locket log loom mango manor map marsh mask
mason mast mat medal melon menu merchant mill mineral miner mint mole moon moose moss moth mountain mouse mud mule
museum mustard nail napkin nectar needle nephew nest net nettle nurse oak oar oat ocean office onion opera orange
orchard organ ounce oven owl ox oyster page palace palm pan panther parade parcel park parsley party pasture path
peach peacock pear pearl pen pencil penny piano pie pier pilot pin pine pipe pirate plate plum pocket poem poet pond
pony poplar porch port potato pottery powder prince princess prison prune pump puppet purse quarry queen quilt quiver
racket radio radish raft rail raisin rake ram razor reed reef rice rider ring robe robin rock rocket room root rope
rose ruby rudder rug ruler sack salad salt sand sauce saucer scarf scissors sea seal seed shawl sheep shelf shell
shepherd ship shirt shoe shop shore shovel sister skirt slate sled sleeve smoke snail snow soap sock sofa soil soldier
song spade sparrow spear spice spinach sponge spoon spruce squirrel stable stair stamp star statue steam steel stone
stool stove straw stream street sugar suit sun supper swan table tailor tank temple tent theatre thimble thorn thread
throne thumb ticket tile timber toast toe tomato tool torch tower toy tray tree trousers trout trumpet trunk tulip
turkey turnip turtle valley van vase vault vessel vine violin wagon waiter walnut walrus water wave wax weasel well
whale wheat wheel whistle widow window wine wing wolf wood wool worm wren yard zebra
""".split(),
)
FIRST = ADJECTIVES + NOUNS  # what a word of two begins with
LOWEST, NUMBERS = 1_000_000, 9_000_000  # seven digits, never a leading zero
LEAST = 400  # words of a file: both splits can fill a short list
UUIDS = 1 << 62  # of the 128 bits of an uuid, the low ones that no rule fixes


def held(index: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Which indices are held out: one of each four, by the hash of the four."""
    out: NDArray[np.bool_] = index % 4 == hashed(index // 4)
    return out


def draw(rng: np.random.Generator, size: int, count: int, split: Split) -> NDArray[np.int64]:
    """Different indices of `split` below `size`: those held out for testing, one of each four at the most."""
    blocks = rng.choice(size // 4, count, replace=False)
    other = rng.integers(1, 4, count) if split == "train" else 0
    chosen: NDArray[np.int64] = 4 * blocks + (hashed(blocks) + other) % 4
    return chosen


def keys(rng: np.random.Generator, count: int, split: Split) -> list[str]:
    """Keys of `split`, all different as long as there are enough; then they begin again."""
    size = len(ADJECTIVES) * len(NOUNS)
    chosen = np.resize(draw(rng, size, min(count, size // 4), split), count)
    return [f"{ADJECTIVES[index // len(NOUNS)]}-{NOUNS[index % len(NOUNS)]}" for index in chosen.tolist()]


def numbers(rng: np.random.Generator, count: int, split: Split) -> list[str]:
    """Different numbers of `split`."""
    return [str(LOWEST + index) for index in draw(rng, NUMBERS, count, split).tolist()]


def uuids(rng: np.random.Generator, count: int, split: Split) -> list[str]:
    """Uuids of `split`, so many that two are never equal."""
    blocks = rng.integers(0, UUIDS // 4, count)
    other = rng.integers(1, 4, count) if split == "train" else 0
    low = 4 * blocks + (hashed(blocks) + other) % 4
    high = rng.integers(0, 1 << 63, count)
    pairs = zip(high.tolist(), low.tolist(), strict=True)
    return [str(uuid.UUID(int=(first << 64) | second, version=4)) for first, second in pairs]


def names(rng: np.random.Generator, count: int, split: Split, letters: int = 5) -> list[str]:
    """Different names of `split`."""
    return [_spelled(index, letters, string.ascii_uppercase) for index in draw(rng, 26**letters, count, split).tolist()]


def coded(rng: np.random.Generator, count: int, split: Split, letters: int = 6) -> list[str]:
    """Different coded words of `split`."""
    return [_spelled(index, letters, string.ascii_lowercase) for index in draw(rng, 26**letters, count, split).tolist()]


def _spelled(index: int, letters: int, alphabet: str) -> str:
    """`index` in the digits of `alphabet`."""
    return "".join(alphabet[index // len(alphabet) ** place % len(alphabet)] for place in reversed(range(letters)))


@dataclass(frozen=True, eq=False)
class WordList:
    """Words to count: those of a file, or, where there are none, two of our own words joined."""

    own: tuple[str, ...] = ()
    source: str = "the list of words"

    @property
    def fingerprint(self) -> str:
        return hashlib.sha256(" ".join(self.own or FIRST + NOUNS).encode()).hexdigest()[:16]

    @cached_property
    def _pools(self) -> dict[Split, NDArray[np.int64]]:
        """The indices of each split."""
        index = np.arange(len(self.own) or len(FIRST) * len(NOUNS))
        few, many = index[held(index)], index[~held(index)]
        return {"test": many, "train": few} if self.own else {"test": few, "train": many}

    def draw(self, rng: np.random.Generator, count: int, split: Split) -> list[str]:
        """At most `count` different words of `split`, fewer where there are no more.

        A draw of more words by the same generator begins with these.
        """
        chosen = rng.permutation(self._pools[split])[:count].tolist()
        if self.own:
            return [self.own[index] for index in chosen]
        return [FIRST[index // len(NOUNS)] + NOUNS[index % len(NOUNS)] for index in chosen]


def load_words(path: str | None) -> WordList:
    """The words of a text file, each once, in the order in which they come first; our own without a path.

    Raises:
        DataError: the file cannot be read, or holds too few words for any list.
    """
    if path is None:
        return WordList()
    try:
        own = tuple(dict.fromkeys(Path(path).read_text(encoding="utf-8").split()))
    except UnicodeDecodeError as error:
        raise DataError(f"suite.words: {path} is not UTF-8 text: {error.reason} at byte {error.start}.") from None
    except OSError as error:
        raise DataError(f"suite.words: {path} cannot be read: {error.strerror}.") from None
    if len(own) < LEAST:
        raise DataError(f"suite.words: {path} has {len(own)} different words, {LEAST} or more are needed.")
    return WordList(own, path)
