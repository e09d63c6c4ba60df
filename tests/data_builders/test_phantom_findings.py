"""Labels and boxes against the geometry that was drawn."""

import dataclasses

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.preprocessing import StandardScaler

from data_builders.phantom import drawing, findings
from data_builders.phantom.anatomy import Anatomy
from data_builders.phantom.exposure import Radiograph

SIZE = 96


def parameters(count: int, images: int = 1) -> list[tuple[Anatomy, Radiograph]]:
    return [drawing.image_parameters(0, p, f) for p in range(count) for f in range(images)]


def straight(image: Radiograph) -> Radiograph:
    pose = dataclasses.replace(image.pose, angle=0.0, shift_x=0.0, zoom=1.5)
    return dataclasses.replace(image, pose=pose)


def test_cardiomegaly_is_a_measured_ratio_above_one_half():
    seen = set()
    for anatomy, image in parameters(120):
        chest = drawing.chest_on_image(anatomy, straight(image), 192)
        heart = np.flatnonzero((chest.heart > 0.5).any(axis=0))
        cage = np.flatnonzero((chest.wall > 0).any(axis=0))
        ratio = (heart[-1] - heart[0] + 1) / (cage[-1] - cage[0] + 1)
        label = drawing.labels(anatomy, image)["Cardiomegaly"]
        if abs(ratio - 0.5) > 0.015:  # about one pixel on either side
            assert label == float(ratio > 0.5), ratio
            seen.add(label)
    assert seen == {0.0, 1.0}


def test_ratios_vary_near_the_threshold():
    ratios = np.array(
        [
            anatomy.cardiothoracic_ratio * image.pose.heart_scale
            for anatomy, image in parameters(500)
        ]
    )
    assert np.mean(np.abs(ratios - 0.5) < 0.03) > 0.15
    assert ratios.std() > 0.04


def difference_with_and_without(
    label: str, anatomy: Anatomy, image: Radiograph
) -> tuple[np.ndarray, list, Radiograph]:
    """What removing every finding of this label changes on an image without glare or border."""
    exposure = dataclasses.replace(image.exposure, scatter=0.0, collimation=(0.0, 0.0, 0.0, 0.0))
    image = dataclasses.replace(image, exposure=exposure)
    if label == "Cardiomegaly":
        pose = dataclasses.replace(image.pose, heart_scale=0.8 * image.pose.heart_scale)
        healthy = dataclasses.replace(image, pose=pose)
    else:
        rest = tuple(f for f in image.findings if type(f).__name__ != label)
        healthy = dataclasses.replace(image, findings=rest)
    boxes = [box for box in drawing.boxes(anatomy, image, SIZE) if box.label == label]
    pictures = [drawing.render(anatomy, one, SIZE).astype(float) for one in (image, healthy)]
    return np.abs(pictures[0] - pictures[1]), boxes, healthy


@pytest.mark.parametrize("label", findings.LABEL_NAMES)
def test_a_finding_changes_the_image_inside_its_box_and_visibly(label):
    strength = []
    for anatomy, image in parameters(60):
        if not drawing.labels(anatomy, image)[label]:
            continue
        difference, boxes, healthy = difference_with_and_without(label, anatomy, image)
        if label != "Cardiomegaly":
            assert drawing.labels(anatomy, healthy)[label] == 0.0
        inside = np.zeros((SIZE, SIZE), bool)
        for box in boxes:
            y0, x0, y1, x1 = (round(v * SIZE) for v in (box.y0, box.x0, box.y1, box.x1))
            inside[max(y0 - 2, 0) : y1 + 2, max(x0 - 2, 0) : x1 + 2] = True
        assert difference[inside].sum() >= 0.98 * difference.sum()
        assert difference[~inside].max(initial=0) <= 8
        changed = np.sort(difference.ravel())[-20:]  # a small nodule has about 20 pixels
        strength.append(changed.mean())
    assert len(strength) >= 8
    assert np.median(strength) > 15
    assert np.mean(np.array(strength) > 5) > 0.9


def test_boxes_lie_on_the_image_and_name_the_positive_labels():
    agree = []
    for anatomy, image in parameters(150):
        boxes = drawing.boxes(anatomy, image, SIZE)
        for box in boxes:
            assert 0 <= box.y0 < box.y1 <= 1 and 0 <= box.x0 < box.x1 <= 1
        positive = {name for name, value in drawing.labels(anatomy, image).items() if value}
        assert {box.label for box in boxes} <= positive
        agree.append({box.label for box in boxes} == positive)
    # A finding outside the image or behind the collimator keeps its label and has no box.
    assert np.mean(agree) > 0.98


def test_an_effusion_stands_highest_at_the_wall():
    checked = 0
    for anatomy, image in parameters(60):
        image = straight(image)
        chest = drawing.chest_on_image(anatomy, image, 192)
        for finding in image.findings:
            if not isinstance(finding, findings.Effusion) or finding.height < 0.5:
                continue
            region = findings.change(finding, chest, anatomy, image.pose.breath).region > 0.5
            assert not (region & (chest.x * finding.side < 0)).any()
            columns = np.flatnonzero(region.any(axis=0))
            outermost = columns[-3] if finding.side > 0 else columns[2]
            innermost = columns[2] if finding.side > 0 else columns[-3]
            assert region[:, outermost].argmax() < region[:, innermost].argmax()
            checked += 1
    assert checked >= 5


def test_effusions_go_with_large_hearts_and_other_findings_do_not():
    rows = [drawing.labels(*pair) for pair in parameters(600, images=3)]
    table = {name: np.array([row[name] for row in rows]) for name in findings.LABEL_NAMES}
    large = table["Cardiomegaly"] == 1
    for name, low, high in (("Effusion", 0.08, 0.3), ("Nodule", -0.07, 0.07)):
        gap = table[name][large].mean() - table[name][~large].mean()
        assert low < gap < high, name
    for name in findings.LABEL_NAMES:
        assert 0.15 < table[name].mean() < 0.35


def test_raw_pixels_do_not_give_the_findings_away():
    """Logistic regression on 24 x 24 pixels, 500 images of 500 patients, 250 of 250 others."""
    pairs = parameters(750)
    pixels = np.stack([drawing.render(*pair, 48) for pair in pairs]).reshape(-1, 24, 2, 24, 2)
    pixels = pixels.mean(axis=(2, 4)).reshape(750, -1)
    targets = np.array([list(drawing.labels(*pair).values()) for pair in pairs])
    scaler = StandardScaler().fit(pixels[:500])
    train, test = scaler.transform(pixels[:500]), scaler.transform(pixels[500:])
    scores = []
    for label in range(targets.shape[1]):
        model = LogisticRegression(C=1e-3, max_iter=300).fit(train, targets[:500, label])
        scores.append(roc_auc_score(targets[500:, label], model.decision_function(test)))
    assert 0.52 < np.mean(scores) < 0.78
