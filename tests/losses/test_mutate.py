import pytest

from tests.losses.mutate import FAULTS, ROOT


@pytest.mark.parametrize("fault", FAULTS, ids=[fault.meaning for fault in FAULTS])
def test_a_fault_still_has_its_place_in_the_code(fault):
    assert fault.right in (ROOT / "seglab/losses" / fault.file).read_text()
    assert fault.wrong != fault.right
