"""The words around a context, task by task: an instruction, two examples, the form of the answer, as BABILong has them.

{instruction} {form}              introduction
<example> ... </example>          left out with `examples=false`
<context>
...facts in other text...
</context>
                                  question
Question: Where is Mary?
Answer:
"""

from __future__ import annotations

__all__ = ["texts_of"]

INSTRUCTION = "Facts are hidden in the text below. Answer the question by these facts alone"
QUESTION = "\n</context>\n\nQuestion: {question}\nAnswer:"

PLACE = "with the name of a place"
NOW = f"; what is told last holds. Answer {PLACE}."
THINGS = "; what somebody carries moves with them, and stays where it is dropped. Answer "
YES = ". Answer yes or no."

FORMS: dict[str, str] = {
    "qa1": NOW,
    "qa2": THINGS + f"{PLACE}.",
    "qa3": THINGS + f"{PLACE}.",
    "qa4": f". Answer {PLACE}.",
    "qa5": ". Answer with the name of a person or of a thing.",
    "qa6": YES,
    "qa7": ". Answer none, one, two or three.",
    "qa8": ". Answer with the names of things, with commas between, or nothing.",
    "qa9": YES,
    "qa10": ". Answer yes, no or maybe.",
    "qa11": NOW,
    "qa12": NOW,
    "qa13": NOW,
    "qa14": f"; order them by the times that they tell. Answer {PLACE}.",
    "qa15": ". Answer with the name of an animal.",
    "qa16": ". Answer with the name of a colour.",
    "qa17": YES,
    "qa18": YES,
    "qa19": ". Answer with two steps, as n,e: n for north, e for east, s for south, w for west.",
    "qa20": ". Answer with a place, or with how somebody feels.",
}

# Facts and question, and the answer. Names and places are not bAbI's, where answers keep their form without them.
EXAMPLES: dict[str, tuple[tuple[str, str], ...]] = {
    "qa1": (
        ("Alma went to the cellar. Ivo moved to the attic. Where is Alma?", "cellar"),
        ("Ivo moved to the porch. Ivo went to the shed. Where is Ivo?", "shed"),
    ),
    "qa2": (
        ("Alma went to the cellar. Alma took the lamp there. Alma moved to the attic. Where is the lamp?", "attic"),
        ("Ivo went to the shed. Ivo got the rope there. Ivo dropped the rope. Where is the rope?", "shed"),
    ),
    "qa3": (
        (
            "Alma took the lamp. Alma went to the shed. Alma went to the attic. Where was the lamp before the attic?",
            "shed",
        ),
        (
            "Ivo got the rope. Ivo moved to the porch. Ivo moved to the shed. Where was the rope before the shed?",
            "porch",
        ),
    ),
    "qa4": (
        ("The attic is north of the shed. What is north of the shed?", "attic"),
        ("The porch is east of the cellar. What is the porch east of?", "cellar"),
    ),
    "qa5": (
        ("Alma gave the rope to Ivo. Who gave the rope to Ivo?", "Alma"),
        ("Ivo handed the lamp to Alma. What did Ivo give to Alma?", "lamp"),
    ),
    "qa6": (
        ("Alma went to the cellar. Is Alma in the cellar?", "yes"),
        ("Ivo went to the shed. Ivo moved to the attic. Is Ivo in the shed?", "no"),
    ),
    "qa7": (
        ("Alma took the lamp there. How many objects is Alma carrying?", "one"),
        ("Ivo got the rope there. Ivo dropped the rope. How many objects is Ivo carrying?", "none"),
    ),
    "qa8": (
        ("Alma took the lamp there. Alma got the rope there. What is Alma carrying?", "lamp,rope"),
        ("Ivo got the rope there. Ivo dropped the rope. What is Ivo carrying?", "nothing"),
    ),
    "qa9": (
        ("Alma is not in the cellar. Is Alma in the cellar?", "no"),
        ("Ivo is in the shed. Is Ivo in the shed?", "yes"),
    ),
    "qa10": (
        ("Alma is either in the cellar or the attic. Is Alma in the attic?", "maybe"),
        ("Ivo is in the shed. Is Ivo in the attic?", "no"),
    ),
    "qa11": (
        ("Alma went to the cellar. Then she moved to the attic. Where is Alma?", "attic"),
        ("Ivo went to the shed. After that he went to the porch. Where is Ivo?", "porch"),
    ),
    "qa12": (
        ("Alma and Ivo went to the cellar. Where is Ivo?", "cellar"),
        ("Ivo and Alma went to the shed. Alma and Ute moved to the attic. Where is Alma?", "attic"),
    ),
    "qa13": (
        ("Alma and Ivo went to the cellar. Then they moved to the attic. Where is Ivo?", "attic"),
        ("Ivo and Ute went to the shed. After that they went to the porch. Where is Ute?", "porch"),
    ),
    "qa14": (
        (
            "This morning Alma went to the shop. Yesterday Alma went to the lake. Where was Alma before the shop?",
            "lake",
        ),
        ("Ivo went to the farm yesterday. This evening Ivo went to the shop. Where was Ivo before the shop?", "farm"),
    ),
    "qa15": (
        ("Hens are afraid of foxes. Alma is a hen. What is Alma afraid of?", "fox"),
        ("Ivo is a fox. Foxes are afraid of dogs. What is Ivo afraid of?", "dog"),
    ),
    "qa16": (
        ("Alma is a hen. Alma is brown. Ivo is a hen. What color is Ivo?", "brown"),
        ("Ute is a fox. Ute is red. Ivo is a fox. What color is Ivo?", "red"),
    ),
    "qa17": (
        ("The star is above the ring. The ring is above the cross. Is the star above the cross?", "yes"),
        ("The star is to the left of the ring. Is the star to the right of the ring?", "no"),
    ),
    "qa18": (
        ("The cup fits inside the bag. The bag fits inside the crate. Does the cup fit in the crate?", "yes"),
        ("The crate is bigger than the bag. Is the bag bigger than the crate?", "no"),
    ),
    "qa19": (
        (
            "The attic is north of the shed. The porch is east of the attic. How do you go from the shed to the porch?",
            "n,e",
        ),
        (
            "The attic is north of the shed. The porch is west of the shed. How do you go from the attic to the porch?",
            "s,w",
        ),
    ),
    "qa20": (
        ("Alma is tired. Where will Alma go?", "bedroom"),
        ("Ivo is hungry. Ivo went to the kitchen. Why did Ivo go to the kitchen?", "hungry"),
    ),
}


def texts_of(task: str, examples: bool) -> dict[str, str]:
    """The texts of a task, with two examples or none."""
    shown = [f"<example>\n{asked}\nAnswer: {answer}\n</example>\n\n" for asked, answer in EXAMPLES[task] if examples]
    return {
        "introduction": f"{INSTRUCTION}{FORMS[task]}\n\n{''.join(shown)}<context>\n",
        "question": QUESTION,
    }
