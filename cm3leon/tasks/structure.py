"""Structure: a picture after a condition, a map of what is to be where, and its caption.

Table 5 has a row for each kind. Its hed and pose rows print "{seg image}" and its normal row
"{depth image}" for the condition, slips of copying; here all are `{condition}`. Figure 15 shows
M-LSD lines as well, which have no row.
"""

from cm3leon.tasks.task import Task

_REST = " | {condition} | {caption} | {image}"


def _structure(name: str, table: str, *others: str, measures: tuple[str, ...]) -> Task:
    return Task(
        name=name,
        templates=(table + _REST,),
        others=tuple(other + _REST for other in others),
        targets=("image",),
        pictures=("condition", "image"),
        streams=(None, "both"),
        decode={"guidance": 3.0},
        measures=measures,
    )


_MAKE = "Make high quality image from "
STRUCTURES = (
    _structure("segmentation", _MAKE + "a segmentation map", measures=("miou", "pixel_accuracy")),
    _structure("edges", _MAKE + "canny edge features", measures=("edge_f1", "edge_ssim")),
    _structure("hed", _MAKE + "hed features", measures=("hed_ms_ssim",)),
    _structure("depth", _MAKE + "depth features", measures=("depth_rmse",)),
    _structure("normal", _MAKE + "3D norm features", measures=("normal_error",)),
    _structure(
        "pose",
        _MAKE + "openpose features",
        _MAKE + "pose features and text description",  # Figure 5
        measures=("oks",),
    ),
    _structure(
        "scribble",
        _MAKE + "children's scribbles",
        _MAKE + "children's scribbles and text description",  # Figure 5
        "Create a high-quality image from children's scribble and text description",  # 4.1
        measures=("edge_f1",),
    ),
)
