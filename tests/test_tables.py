from activemri.tables import Table


def test_numbers_stand_at_the_right_and_text_at_the_left() -> None:
    text = Table(("name", "n", "ssim"), [("a", 12, 0.5), ("longer", 3, None)]).text()
    assert text.splitlines() == [
        "name     n    ssim",
        "------  --  ------",
        "a       12  0.5000",
        "longer   3       -",
    ]


def test_a_number_that_is_shown_as_zero_has_no_sign() -> None:
    assert Table(("x",), [(-1e-9,)]).text().splitlines()[-1] == "0.0000"
