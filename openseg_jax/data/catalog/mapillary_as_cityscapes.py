"""Mapillary Vistas with the 19 classes of Cityscapes: the build of `mapillary`, read otherwise."""

from __future__ import annotations

import dataclasses

from openseg_jax.data.catalog import cityscapes, mapillary
from openseg_jax.data.dataset import IGNORE, LabelMap

# Class of Cityscapes: names in Mapillary, the one that it is exported as first.
NAMES = {
    "road": (
        *("Road", "Bike Lane", "Crosswalk - Plain", "Parking", "Service Lane"),
        *("Lane Marking - Crosswalk", "Lane Marking - General"),
    ),
    "sidewalk": ("Sidewalk", "Curb", "Curb Cut", "Pedestrian Area"),
    "building": ("Building",),
    "wall": ("Wall",),
    "fence": ("Fence",),
    "pole": ("Pole", "Street Light", "Utility Pole"),
    "traffic light": ("Traffic Light",),
    "traffic sign": ("Traffic Sign (Front)", "Traffic Sign (Back)", "Traffic Sign Frame"),
    "vegetation": ("Vegetation",),
    "terrain": ("Terrain",),
    "sky": ("Sky",),
    "person": ("Person",),
    "rider": ("Bicyclist", "Motorcyclist", "Other Rider"),
    "car": ("Car",),
    "truck": ("Truck",),
    "bus": ("Bus",),
    "train": ("On Rails",),
    "motorcycle": ("Motorcycle",),
    "bicycle": ("Bicycle",),
}


def _label_map() -> LabelMap:
    ids = {name: index for index, name in enumerate(mapillary.CLASSES)}
    train_ids = {
        ids[name]: train_id
        for train_id, city_class in enumerate(cityscapes.CLASSES)
        for name in NAMES[city_class]
    }
    void = [mapillary.UNLABELED, *(i for i in ids.values() if i not in train_ids)]
    return LabelMap({**dict.fromkeys(void, IGNORE), **train_ids})


DATASET = dataclasses.replace(
    mapillary.DATASET,
    name="mapillary_as_cityscapes",
    title="Mapillary Vistas 1.2 in the 19 classes of Cityscapes",
    classes=cityscapes.DATASET.classes,
    palette=cityscapes.DATASET.palette,
    label_map=_label_map(),
    stored_as="mapillary",
)
