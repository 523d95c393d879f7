from tests import count_house, count_step

#: Most functions of this package, and files they lie in, that a plain step may enter.
FUNCTIONS, FILES = 35, 7


def test_a_plain_step_enters_few_functions_in_few_files() -> None:
    codes = count_step.functions_of_a_step()
    assert 0 < len(codes) <= FUNCTIONS, count_step.report(codes)
    assert len({count_step.path_of(code) for code in codes}) <= FILES, count_step.report(codes)


def test_the_house_is_counted() -> None:
    text = count_house.report(every_question=True)
    assert all(name in text for name in ("activemri", "agents", "envs", "together", "settings"))
