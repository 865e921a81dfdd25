"""Captions: what a picture shows, in a sentence or in full.

The caption stands before its picture, so it is written by infilling; the same rows, in place, are
text-to-image.
"""

from cm3leon.tasks.task import Task

WRITTEN = {
    "targets": ("caption",),
    "pictures": ("image",),
    "streams": (None, "image"),
    "decode": {"guidance": 1.0, "temperature": 0.0},
}

# COCO captions and Flickr30k; Figures 5 and 16
CAPTION = Task(
    name="caption",
    templates=("{caption} | {image}", "Describe the given picture. {caption} | {image}"),
    others=("Describe the given image. {caption} | {image}",),
    measures=("cider_d", "bleu", "rouge_l", "caption_truth"),
    **WRITTEN,
)

# Image Paragraph, and the two more of Localized Narratives; Figure 5
LONG = Task(
    name="caption-long",
    templates=(
        "Describe the given picture in very detail. {caption} | {image}",
        "Describe all the objects in the given image in very detail. {caption} | {image}",
        "Generate a long caption for the given image. {caption} | {image}",
        "Generate a long narration of what is happening in the given image. {caption} | {image}",
    ),
    others=("Describe the given image in very detail. {caption} | {image}",),
    measures=("cider_d", "caption_truth"),
    **WRITTEN,
)
