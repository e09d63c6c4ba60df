"""The tasks of the public datasets: which labels are scored, under which policy, on which views.

"default" is what a transfer does unasked. A dataset that is not here has one task, every label. The
study's own label sets are not published (../shared/datasets.md); these are ours. README.md shows
this table.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from cxr_jax.data.labels import NIH_FINDINGS, Task, check_policies, parse

FRONTAL = ("PA", "AP", "FRONTAL")

# CheXpert's, MIMIC-CXR's and BRAX's vocabulary, and the five labels of the CheXpert competition.
CHEXPERT_LABELS = (
    *("No Finding", "Enlarged Cardiomediastinum", "Cardiomegaly", "Lung Opacity", "Lung Lesion"),
    *("Edema", "Consolidation", "Pneumonia", "Atelectasis", "Pneumothorax", "Pleural Effusion"),
    *("Pleural Other", "Fracture", "Support Devices"),
)
COMPETITION = ("Atelectasis", "Cardiomegaly", "Consolidation", "Edema", "Pleural Effusion")


def _same(names: Sequence[str]) -> dict[str, str]:
    return {name: name for name in names}


# Reports that were read for findings say what they found: a blank is a finding that is absent.
_FROM_REPORTS = {"unmentioned": "zeros", "views": FRONTAL}

# TorchXRayVision's names for PadChest's own, where NIH ChestX-ray14 has the finding too.
_PADCHEST = {
    **{"Atelectasis": "atelectasis", "Cardiomegaly": "cardiomegaly"},
    **{"Consolidation": "consolidation", "Edema": "pulmonary edema"},
    **{"Effusion": "pleural effusion", "Emphysema": "emphysema", "Fibrosis": "pulmonary fibrosis"},
    **{"Hernia": "hiatal hernia", "Infiltration": "infiltrates", "Mass": "mass"},
    **{"Nodule": "nodule", "Pleural_Thickening": "pleural thickening"},
    **{"Pneumonia": "pneumonia", "Pneumothorax": "pneumothorax"},
}

# Findings with at least six positive images in the hash's test split.
_INDIANA = (
    *("Cardiomegaly", "Pulmonary Atelectasis", "Pleural Effusion", "Opacity", "Nodule"),
    *("Calcified Granuloma", "Emphysema", "Infiltrate", "Pneumonia", "Consolidation"),
    *("Pulmonary Edema", "Pneumothorax", "Hiatal Hernia", "Bone Fractures"),
)

# The other labels have at most 19 positive images in train and 3 in test.
_VINDR_PCXR = (
    *("No finding", "Bronchitis", "Brocho-pneumonia", "Bronchiolitis", "Pneumonia"),
    "Other disease",
)

# What phases 2 and 3 ask; phase 1 has labels of its own.
_REFLACX = (
    *("Abnormal mediastinal contour", "Acute fracture", "Atelectasis", "Consolidation"),
    *("Enlarged cardiac silhouette", "Enlarged hilum", "Groundglass opacity", "Hiatal hernia"),
    *("High lung volume / emphysema", "Interstitial lung disease", "Lung nodule or mass"),
    *("Pleural abnormality", "Pneumothorax", "Pulmonary edema", "Support devices"),
)

_VINDR_GLOBAL = (
    *("COPD", "Lung tumor", "Pneumonia", "Tuberculosis", "Other diseases", "No finding"),
)

TASKS: dict[str, dict[str, Task]] = {
    "brax": {"default": Task(_same(CHEXPERT_LABELS), **_FROM_REPORTS)},
    "chexpert": {
        "default": Task(_same(COMPETITION), **_FROM_REPORTS),
        "all": Task(_same(CHEXPERT_LABELS), **_FROM_REPORTS),
    },
    "indiana_university": {
        "default": Task(_same(_INDIANA), views=FRONTAL),
        "any_finding": Task({"Any finding": "not No Finding"}, views=FRONTAL),
    },
    "jsrt": {
        "default": Task({"Nodule": "Nodule"}),
        "malignant": Task({"Malignant": "Malignant"}),
    },
    "mimic_cxr": {
        "default": Task(_same(CHEXPERT_LABELS), **_FROM_REPORTS),
        "competition": Task(_same(COMPETITION), **_FROM_REPORTS),
    },
    "nih_chestxray14": {
        "default": Task(_same(NIH_FINDINGS)),
        "any_finding": Task({"Any finding": "not No Finding"}),
    },
    "padchest": {"default": Task(_PADCHEST, views=FRONTAL)},
    "pulmonary_edema_severity": {
        "default": Task(
            {
                "No edema": "Edema severity = 0",
                "Vascular congestion": "Edema severity = 1",
                "Interstitial edema": "Edema severity = 2",
                "Alveolar edema": "Edema severity = 3",
            },
            exclusive=True,
        ),
        "any_edema": Task({"Any edema": "Edema severity >= 1"}),
    },
    "reflacx": {"default": Task(_same(_REFLACX), certainty=3.0)},
    "rsna_pneumonia": {"default": Task({"Lung Opacity": "Lung Opacity"})},
    # Headers often leave the view blank; lateral images and the owner's outliers name theirs.
    "tb_portals": {"default": Task({"Drug resistant": "Drug resistant"}, views=(*FRONTAL, ""))},
    "vindr_cxr": {"global": Task(_same(_VINDR_GLOBAL))},
    "vindr_pcxr": {"default": Task(_same(_VINDR_PCXR))},
}


def changes_of(config: Any) -> dict[str, Any]:
    """What a transfer's config changes of a task: its fields of the same names."""
    views = tuple(view.strip() for view in config.views.split(",") if view.strip())
    fields = ("uncertain", "unmentioned", "readers", "certainty", "exclusive")
    return {field: config[field] for field in fields} | {"views": views}


def find_task(
    dataset: str,
    label_names: Sequence[str],
    wanted: str = "",
    changes: Mapping[str, Any] | None = None,
) -> Task:
    """The task called `wanted`: a named one, labels (or expressions) by commas, "" the default.

    Args:
      dataset: "name" or "name/config".
      changes: fields of the Task that replace its own; empty values change nothing, views of
        ("any",) lift the task's restriction.

    Raises:
      ValueError: neither a task of this dataset nor labels that it has; a policy unknown.
    """
    named = TASKS.get(dataset.split("/")[0], {})
    if not wanted or wanted in named:
        task = named.get(wanted or "default", Task(_same(label_names)))
    else:
        task = Task(_same([name.strip() for name in wanted.split(",")]))
        default = named.get("default", task)
        # Some of exclusive classes are not exclusive classes: that is said anew.
        task = default._replace(labels=task.labels, exclusive=False)
    task = task._replace(**{field: value for field, value in (changes or {}).items() if value})
    if task.views == ("any",):
        task = task._replace(views=())
    check_policies(task)
    for expression in task.labels.values():
        try:
            parse(expression, label_names)
        except ValueError as error:
            raise ValueError(
                f"dataset {dataset} has {error} (config.task={wanted!r}). Its named tasks: "
                f"{', '.join(named) or 'none'}."
            ) from error
    return task
