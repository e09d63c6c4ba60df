"""Eight images, some with others of their patient and study, others without."""

from pathlib import Path

from PIL import Image

from tests.fakes.dataset import build_beside
from tests.fakes.image_folder import write_rows
from tests.fakes.pictures import draw_image

#           0    1    2    3    4    5    6    7
PATIENTS = ["a", "a", "a", "b", "b", "c", "c", "d"]
STUDIES = ["1", "1", "1", "1", "2", "3", "3", ""]
OTHERS = {0: {1, 2}, 1: {0, 2}, 2: {0, 1}, 3: set(), 4: set(), 5: {6}, 6: {5}, 7: set()}


def build(folder: Path) -> Path:
    """Builds them as image_folder, all in train, image ids their numbers; returns the data_dir."""
    (folder / "raw").mkdir()
    for number in range(8):
        Image.fromarray(draw_image(number)).save(folder / "raw" / f"{number}.png")
    rows = [
        {"image": f"{number}.png", "patient_id": patient, "study_id": study, "split": "train"}
        for number, (patient, study) in enumerate(zip(PATIENTS, STUDIES))
    ]
    table = folder / "labels.csv"
    write_rows(table, rows)
    build_beside("image_folder", folder / "raw", options={"labels_csv": str(table)})
    return folder / "data"
