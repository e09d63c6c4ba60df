import pytest

from cxr_jax.data.labelled import load_split
from cxr_jax.evaluate.protocol import Splits
from cxr_jax.experiments import inputs


def test_a_patient_in_train_and_test_is_refused_and_the_films_named(data_dir):
    splits = Splits(*(load_split("phantom/tiny", str(data_dir), name) for name in Splits._fields))
    inputs.check_disjoint(splits)
    patients = list(splits.test.patient_ids)
    patients[3] = splits.train.patient_ids[5]
    leaked = splits.test._replace(patient_ids=tuple(patients))
    with pytest.raises(ValueError, match="film 3 of test is of the same patient as film") as error:
        inputs.check_disjoint(splits._replace(test=leaked))
    same = splits.train.patient_ids.index(splits.train.patient_ids[5])
    assert f"film {same} of train" in str(error.value)
    assert splits.train.patient_ids[5] not in str(error.value)
