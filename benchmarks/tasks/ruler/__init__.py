"""RULER: thirteen tasks whose length can be any. The structure, counts, budgets and rules are those that NVIDIA
published (https://github.com/NVIDIA/RULER, version 1); the wording is ours, or a file's.

    niah_*        eight kinds of needles: `niah`
    vt            a chain of assignments: `variable_tracking`
    cwe, fwe      the most frequent of listed words, and of coded ones: `common_words`, `frequent_words`
    qa_1, qa_2    questions of SQuAD and of HotpotQA among their documents: `question_answering`

All but the questions have a token mode: `tokens`. Each is a recipe of a `task.RulerTask`; `catalogue` lists them.
"""
