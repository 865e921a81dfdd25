"""Editing: a picture and an instruction, the picture after it (InstructPix2Pix, MagicBrush)."""

from cm3leon.tasks.task import Task

EDIT = Task(
    name="edit",
    templates=("Edit first image following the instruction | {image1} | {instruction} | {image2}",),
    # Figure 5 and section 4.1
    others=("Edit the image following the text instruction | {image1} | {instruction} | {image2}",),
    targets=("image2",),
    pictures=("image1", "image2"),
    streams=(None, "text", "both"),  # full, without the instruction, without anything
    decode={"image_guidance": 1.5, "text_guidance": 7.5},
    measures=(
        "edit_exact", "background_psnr", "l1", "l2", "clip_direction", "clip_image", "clip_text",
        "dino",
    ),
)  # fmt: skip
