"""Answers to questions about a picture: short ones, and ScienceQA's, with the way to them."""

from cm3leon.tasks.task import Task

WRITTEN = {
    "pictures": ("image",),
    "streams": (None, "image"),
    "decode": {"guidance": 1.0, "temperature": 0.0},
}

# VQA2, VizWiz and OKVQA; Figures 5 and 16 ask without a word before the answer
ANSWER = Task(
    name="answer",
    templates=(
        "Question: {question} Answer: {answer}. | {image}",
        "Question: {question}\n{answer} | {image}",
        "Question: {question} The answer is {answer}. | {image}",
    ),
    others=("Question: {question} {answer} | {image}",),
    targets=("answer",),
    measures=("vqa_accuracy", "exact_match"),
    **WRITTEN,
)

_SCIENCE = "Question: {question}\nContext: {context}\nOptions: {options}\nAnswer: "

# ScienceQA's first row: the answer alone
CHOICE = Task(
    name="answer-choice",
    templates=(_SCIENCE + "{answer}. | {image}",),
    targets=("answer",),
    measures=("scienceqa_accuracy",),
    **WRITTEN,
)

# ScienceQA's second row; Figure 5 asks for an explanation in other words
EXPLAINED = Task(
    name="answer-explained",
    templates=(
        _SCIENCE + "Let's think step-by-step: {explanation} So the answer is {answer}. | {image}",
    ),
    others=(
        "Question: {question} Context: {context} Options: {options} Please explain your answer. "
        "{explanation} So the answer is {answer}. | {image}",
    ),
    targets=("explanation", "answer"),
    measures=("scienceqa_accuracy",),
    **WRITTEN,
)
