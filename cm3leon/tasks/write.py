"""How to write: a sign or logo with given letters (OCR data in the paper)."""

from cm3leon.tasks.task import Task

WRITE = Task(
    name="write",
    templates=('draw "{letters}" | {image}',),
    others=('A white sign that says "{letters}" | {image}',),  # Figure 5
    targets=("image",),
    pictures=("image",),
    streams=(None, "text"),
    decode={"guidance": 3.0},
    measures=("letters_right", "edit_distance"),
)
