"""Grounded drawing: boxes in the prompt, as the paper writes them (`world.coordinates`).

Two fields tell them: `{objects}`, "bottle at location (199, 130) -> (204, 150), sink at ..", and
`{with_objects}`, as Figure 15 joins them: "with bottle at .. and with sink at .."
(`data.layouts.boxes.boxes_as_text`).
"""

from cm3leon.tasks.task import Task
from cm3leon.world.coordinates import SIDE, read_locations


def check_locations(text: str) -> None:
    """Raise UserError for a number above 255 and for corners that are reversed."""
    read_locations(text, SIDE)


GROUNDED = Task(
    name="grounded",
    templates=("Generate high quality image of {caption} with segmentations {objects} | {image}",),
    others=(
        'Generate high quality image of "{caption}" {with_objects}. | {image}',  # Figure 15
        "Fabricate an image of {caption} {with_objects} | {image}",  # Figure 5
    ),
    targets=("image",),
    pictures=("image",),
    streams=(None, "text"),
    decode={"guidance": 3.0},
    measures=("ap", "ap50", "iou_recall"),
    check_text=check_locations,
)
