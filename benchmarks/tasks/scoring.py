"""How written answers are judged: the published rules as pure functions of texts, 0 to 1 each.

    token_f1("The cat sat.", "a cat")       # 0.67: words, without case, punctuation and articles
    exact_match("The cat.", "cat")          # 1.0
    first_integer("It is 42, not 7", "42")  # 1.0

Each says whose rule it is. Where a published rule has a mistake, what it meant is done, and its docstring says so. Of
several answers the best counts: `best(token_f1, output, answers)`. ROUGE stands in `rouge.py`, choices by letter in
`letters.py`.
"""

from __future__ import annotations

import ast
import difflib
import math
import re
import string
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence

__all__ = [
    "answered_labels",
    "best",
    "character_f1",
    "classified",
    "code_similarity",
    "concordance",
    "edit_similarity",
    "exact_match",
    "exponential_similarity",
    "filled_masks",
    "first_integer",
    "first_line",
    "first_number",
    "label_set",
    "last_integer",
    "last_word_integer",
    "leading_share",
    "normalised",
    "right_integers",
    "substring",
    "substring_match",
    "token_f1",
    "whole_token",
    "word_f1",
]

ARTICLES = re.compile(r"\b(a|an|the)\b")
PUNCTUATION = str.maketrans("", "", string.punctuation)
CHINESE = (
    "！？｡。＂＃＄％＆＇（）＊＋，－／：；＜＝＞＠［＼］＾＿｀｛｜｝～｟｠｢｣､、〃》「」『』【】〔"
    "〕〖〗〘〙〚〛〜〝〞〟〰〾〿–—‘’‛“”„‟…‧﹏."
)
BOTH = str.maketrans("", "", string.punctuation + CHINESE)
NUMBER = re.compile(r"\d+\.\d+|\d+")
PERCENT = re.compile(r"(\d+(?:\.\d+)?)\s*%?")


def best(rule: Callable[[str, str], float], output: str, answers: Iterable[str]) -> float:
    """The best score over several gold answers, each as good as the other."""
    return max((rule(output, answer) for answer in answers), default=0.0)


def first_line(text: str) -> str:
    """The first line, empty ones before it left out (LongBench's trec, triviaqa, samsum and lsht)."""
    return text.lstrip("\n").split("\n")[0]


def normalised(text: str) -> str:
    """SQuAD's form of an answer: lower case, without punctuation, articles and more than one space."""
    return " ".join(ARTICLES.sub(" ", text.lower().translate(PUNCTUATION)).split())


def exact_match(output: str, answer: str) -> float:
    """Whether both are the same in SQuAD's form."""
    return float(normalised(output) == normalised(answer))


def token_f1(output: str, answer: str) -> float:
    """SQuAD's F1 of words. Without a word in common it is 0, so two texts without any word are not equal."""
    return _f1(normalised(output).split(), normalised(answer).split())


def character_f1(output: str, answer: str) -> float:
    """F1 of characters without white space and punctuation, for Chinese (InfiniteBench)."""
    return _f1(*("".join(text.lower().translate(BOTH).split()) for text in (output, answer)))


def word_f1(output: Sequence[str], answer: Sequence[str]) -> float:
    """F1 of Chinese words that somebody cut, each without white space and punctuation (LongBench)."""
    return _f1(*([word for word in map(_chinese, words) if word] for words in (output, answer)))


def substring(output: str, answer: str) -> float:
    """Whether the answer is written, whatever the case."""
    return float(answer.lower() in output.lower())


def substring_match(output: str, answer: str) -> float:
    """Whether the answer is written, both in SQuAD's form (HELMET, Lost in the Middle).

    An answer that has nothing left in that form, as "a", is in every output.
    """
    return float(normalised(answer) in normalised(output))


def edit_similarity(output: str, answer: str) -> float:
    """fuzzywuzzy's `ratio`: matched characters twice over all of them, in whole percent.

    fuzzywuzzy takes another algorithm where python-Levenshtein is installed, with results that differ a little.
    LongBench's requirements do not have it, so that its numbers are these.
    """
    if output == answer:
        return 1.0
    if not output or not answer:
        return 0.0
    return round(100 * difflib.SequenceMatcher(None, output, answer).ratio()) / 100


def code_similarity(output: str, answer: str) -> float:
    """Edit similarity of the first line that is no comment and no fence (LongBench's lcc and repobench-p)."""
    lines = output.lstrip("\n").split("\n")
    return edit_similarity(next((line for line in lines if not re.search("`|#|//", line)), ""), answer)


def classified(output: str, answer: str, classes: Sequence[str]) -> float:
    """One over the number of classes that the output names, if the answer's is among them (LongBench's trec and lsht).

    Names that are a part of the answer's do not count. The published code removes them from the list that it walks
    through, and so leaves every second one of them in; here all are removed.
    """
    named = [name for name in classes if name in output and not (name in answer and name != answer)]
    return 1 / len(named) if answer in named else 0.0


def right_integers(output: str, answer: str) -> float:
    """The share of the output's integers that are the answer's (LongBench's passage_retrieval and passage_count).

    answer: a text with one integer, as "Paragraph 12", "段落12" or "12"
    """
    wanted = re.search(r"\d+", answer)
    numbers = re.findall(r"\d+", output)
    return numbers.count(wanted[0]) / len(numbers) if wanted and numbers else 0.0


def first_integer(output: str, answer: str) -> float:
    """Whether the first run of digits is the answer (InfiniteBench's passkey and number_string, Landmark's passkey)."""
    found = re.search(r"[0-9]+", output)
    return float(found is not None and found[0] == answer)


def last_integer(output: str, answer: str) -> float:
    """Whether the last run of digits is the answer (LongEval's lines)."""
    found = re.findall(r"[0-9]+", output)
    return float(bool(found) and found[-1] == answer)


def last_word_integer(output: str, answer: str) -> float:
    """Whether the last word is an integer, and the answer's (InfiniteBench's code_run)."""
    words = re.sub(r"[\n.`'\":]", " ", output).split()
    try:
        return float(bool(words) and int(words[-1]) == int(answer))
    except ValueError:
        return 0.0


def first_number(output: str, answer: str) -> float:
    """Whether the first number, sign left out, has the answer's value (InfiniteBench's math_find).

    The published code fails on "3.5" where the answer is an integer; here it is wrong.
    """
    found = NUMBER.search(output)
    return float(found is not None and float(found[0]) == float(answer))


def whole_token(output: str, answer: str) -> float:
    """Whether the answer is a word between spaces and punctuation (InfiniteBench's kv_retrieval)."""
    return float(answer in re.sub(r"[\n:\"'.,?!{}]", " ", output).split())


def leading_share(output: str, answer: Sequence[int]) -> float:
    """The share of the answer's integers that the output begins with (InfiniteBench's math_calc)."""
    numbers = [int(found) for found in re.findall(r"[0-9]+", output)]
    right = 0
    while right < min(len(numbers), len(answer)) and numbers[right] == answer[right]:
        right += 1
    return right / len(answer)


def answered_labels(output: str, labels: Iterable[str], question: str = "") -> set[str]:
    """The labels, in lower case, that the output's first sentence names and the question does not (BABILong)."""
    names = {label.lower() for label in labels}
    text = re.split(r"\.|<context>|<example>", output.lower(), maxsplit=1)[0]
    # "none" must not name "one" too: where one label is in another, only whole words count.
    nested = any(one != other and one in other for one in names for other in names)

    def written(where: str) -> set[str]:
        if nested:
            return {name for name in names if re.search(rf"\b{re.escape(name)}\b", where)}
        return {name for name in names if name in where}

    return written(text) - written(question.lower())


def label_set(output: str, answer: str, labels: Iterable[str], question: str = "") -> float:
    """Whether exactly the answer's labels are named, in any order (BABILong's metrics.py).

    The published code finds "one" in "none", so that no model can answer "none" in qa7; here whole words count there.
    An answer of one label is compared whole ("s,e" of qa19); one of several is split at its commas ("apple,milk").
    """
    names = {label.lower() for label in labels}
    wanted = {answer.lower()} if answer.lower() in names else set(answer.lower().split(","))
    return float(answered_labels(output, names, question) == wanted)


def filled_masks(output: str, answer: Mapping[str, str]) -> float:
    """The share of masks whose name is given exactly (LooGLE's cloze), of an output that is a dictionary.

    The published code evaluates the output as Python; here it is read as data.
    """
    found = re.search(r"\{.*?\}", output, re.DOTALL)
    try:
        given = ast.literal_eval(found[0]) if found else {}
    except (ValueError, SyntaxError):
        return 0.0
    if not isinstance(given, dict) or not answer:
        return 0.0
    return float(sum(bool(given.get(mask) == name) for mask, name in answer.items()) / len(answer))


def exponential_similarity(output: str, answer: str) -> float:
    """Halved for each tenth by which the first percentage is off (ZeroSCROLLS' space_digest)."""
    given, wanted = PERCENT.search(output), PERCENT.search(answer)
    return 2.0 ** (-abs(float(given[1]) - float(wanted[1])) / 10) if given and wanted else 0.0


def concordance(output: str, answer: str) -> float:
    """The share of pairs in the answer's order, of an output that orders the same things (ZeroSCROLLS' book_sum_sort).

    Both are integers in a row. What is no permutation of the answer is wrong.
    """
    given, wanted = ([int(found) for found in re.findall(r"\d+", text)] for text in (output, answer))
    if sorted(given) != sorted(wanted) or len(wanted) < 2:
        return 0.0
    place = {item: index for index, item in enumerate(given)}
    pairs = [(one, other) for index, one in enumerate(wanted) for other in wanted[index + 1 :]]
    return sum(place[one] < place[other] for one, other in pairs) / math.comb(len(wanted), 2)


def _chinese(word: str) -> str:
    return "".join(word.lower().translate(BOTH).split())


def _f1(output: Sequence[str], answer: Sequence[str]) -> float:
    same = (Counter(output) & Counter(answer)).total()
    return 2 * same / (len(output) + len(answer)) if same else 0.0
