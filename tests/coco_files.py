"""Annotation files in COCO's layout, as tests and benchmarks write them."""

import json


def file_name(image_id, split="train2014"):
    return f"COCO_{split}_{image_id:012d}.png"


def write_annotations(folder, split, sizes, captions, instances, categories):
    """Write the annotation files of images {id: (width, height)}, captions [(id, text)], instances
    [(id, category id, box)] or None, categories {id: name}."""
    images = [
        {"id": image_id, "file_name": file_name(image_id, split), "width": width, "height": height}
        for image_id, (width, height) in sizes.items()
    ]
    texts = [
        {"id": 1000 + number, "image_id": image_id, "caption": text}
        for number, (image_id, text) in enumerate(captions)
    ]
    contents = {"captions": {"images": images, "annotations": texts}}
    if instances is not None:
        objects = [
            {"id": 2000 + number, "image_id": image_id, "category_id": category, "bbox": box}
            for number, (image_id, category, box) in enumerate(instances)
        ]
        names = [{"id": number, "name": name} for number, name in categories.items()]
        contents["instances"] = {"images": images, "categories": names, "annotations": objects}
    (folder / "annotations").mkdir(exist_ok=True)
    for kind, content in contents.items():
        path = folder / "annotations" / f"{kind}_{split}.json"
        path.write_text(json.dumps(content), encoding="utf-8")
