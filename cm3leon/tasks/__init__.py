"""Tasks: what is asked of a model in words and pictures (section 4), and the rows it learns on."""

from cm3leon.tasks.answer import ANSWER, CHOICE, EXPLAINED
from cm3leon.tasks.caption import CAPTION, LONG
from cm3leon.tasks.edit import EDIT
from cm3leon.tasks.grounded import GROUNDED
from cm3leon.tasks.structure import STRUCTURES
from cm3leon.tasks.task import Task
from cm3leon.tasks.write import WRITE

TASKS: dict[str, Task] = {
    task.name: task
    for task in (CAPTION, LONG, ANSWER, CHOICE, EXPLAINED, EDIT, *STRUCTURES, GROUNDED, WRITE)
}
